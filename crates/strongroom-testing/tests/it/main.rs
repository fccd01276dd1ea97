//! The homeserver that other tests rely on: what it says, and how it fails.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};
use strongroom_testing::{Fault, Homeserver, User, new_client};

async fn ask(homeserver: &Homeserver, user: &User, query: &str) -> reqwest::Result<Response> {
    let url = format!("{}/_matrix/client/v3/account/whoami{query}", homeserver.url());
    new_client().get(url).bearer_auth(&user.token).send().await
}

async fn whoami(homeserver: &Homeserver, user: &User, query: &str) -> (u16, Value) {
    let response = ask(homeserver, user, query).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

#[tokio::test]
async fn a_token_is_answered_with_its_owner_until_it_is_logged_out() {
    let homeserver = Homeserver::start().await;
    let (alice, guest) = (homeserver.login("@alice:example.org"), homeserver.login_guest());
    let expected =
        json!({ "user_id": alice.user_id, "device_id": alice.device_id, "is_guest": false });
    assert_eq!(whoami(&homeserver, &alice, "").await, (200, expected));
    assert_eq!(whoami(&homeserver, &guest, "").await.1["is_guest"], true);

    homeserver.soft_logout(&alice);
    let (status, body) = whoami(&homeserver, &alice, "").await;
    assert_eq!((status, &body["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    assert_eq!(body["soft_logout"], true);
    homeserver.logout(&alice);
    assert_eq!(whoami(&homeserver, &alice, "?a=b").await.1["soft_logout"], false);

    assert_eq!(homeserver.whoami_count(), 4);
    assert_eq!(homeserver.whoami_seen(), ["", "", "", "a=b"]);
}

#[tokio::test]
async fn an_application_service_speaks_for_its_own_users_only() {
    let homeserver = Homeserver::start().await;
    let bridge = homeserver.login_application_service("@bridge_");
    assert_eq!(whoami(&homeserver, &bridge, "").await.1["user_id"], "@bridge_bot:example.org");

    let query = "?user_id=%40bridge_bob%3Aexample.org&device_id=PHONE";
    let expected =
        json!({ "user_id": "@bridge_bob:example.org", "device_id": "PHONE", "is_guest": false });
    assert_eq!(whoami(&homeserver, &bridge, query).await, (200, expected));

    let (status, body) = whoami(&homeserver, &bridge, "?user_id=%40alice%3Aexample.org").await;
    assert_eq!((status, &body["errcode"]), (403, &json!("M_FORBIDDEN")));
}

#[tokio::test]
async fn each_fault_is_what_it_says() {
    let homeserver = Homeserver::start().await;
    let alice = homeserver.login("@alice:example.org");

    homeserver.misbehave(Fault::Status(502, "text/html", "<html>".into()));
    assert_eq!(whoami(&homeserver, &alice, "").await.0, 502);
    homeserver.misbehave(Fault::Garbage);
    assert_eq!(whoami(&homeserver, &alice, "").await, (200, Value::Null));
    homeserver.misbehave(Fault::RateLimited { retry_after_ms: 1500 });
    let (status, body) = whoami(&homeserver, &alice, "").await;
    assert_eq!((status, &body["retry_after_ms"]), (429, &json!(1500)));
    homeserver.misbehave(Fault::Locked);
    let (status, body) = whoami(&homeserver, &alice, "").await;
    assert_eq!((status, &body["errcode"]), (401, &json!("M_USER_LOCKED")));

    homeserver.misbehave(Fault::Redirect("http://example.org/".into()));
    let redirect = ask(&homeserver, &alice, "").await.unwrap();
    assert_eq!(redirect.headers()["location"], "http://example.org/");
    homeserver.misbehave(Fault::Huge(1_000_000));
    let huge = ask(&homeserver, &alice, "").await.unwrap().bytes().await.unwrap();
    assert!(huge.len() > 1_000_000, "{} bytes", huge.len());
    homeserver.misbehave(Fault::CloseMidway);
    let broken = ask(&homeserver, &alice, "").await.unwrap().bytes().await;
    assert!(broken.is_err(), "{broken:?}");

    homeserver.misbehave(Fault::Stall);
    let stalled = tokio::time::timeout(Duration::from_millis(100), ask(&homeserver, &alice, ""));
    assert!(stalled.await.is_err(), "an answer came");
    homeserver.misbehave(Fault::None);
    assert_eq!(whoami(&homeserver, &alice, "").await.0, 200);
}

#[tokio::test]
async fn while_it_is_stopped_connections_are_refused_and_afterwards_its_tokens_are_good() {
    let mut homeserver = Homeserver::start().await;
    let alice = homeserver.login("@alice:example.org");
    let before = homeserver.url();

    homeserver.stop().await;
    let refused = ask(&homeserver, &alice, "").await;
    assert!(refused.as_ref().is_err_and(reqwest::Error::is_connect), "{refused:?}");

    homeserver.restart().await;
    assert_eq!(homeserver.url(), before);
    assert_eq!(whoami(&homeserver, &alice, "").await.0, 200);
}
