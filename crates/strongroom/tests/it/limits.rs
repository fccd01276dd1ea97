//! What a hostile client meets: each limit at it and above, and that nobody else notices.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail loudly"
)]

mod bodies;
mod connections;
mod counted;
mod questions;

use std::time::Instant;

use strongroom_testing::{Answer, Server, User, until};

use crate::{
    client::{
        assert_ok, assert_refused, assert_says_when_to_retry, bearer, create_backup, new_version,
        room_key, start_with,
    },
    hostile::wire::{Wire, head},
    running::{Serve, ask_over_with, listening, stop},
};

const CURRENT: &str = "/room_keys/version";
const PATH: &str = "/_matrix/client/v3/room_keys/version";

#[tokio::test]
async fn a_user_beyond_the_limit_is_told_when_to_come_again_and_nobody_else_notices() {
    let environment = [
        ("STRONGROOM_LIMITS_USER_REQUESTS_PER_SECOND", "1"),
        ("STRONGROOM_LIMITS_USER_REQUESTS_BURST", "10"),
    ];
    let begin = Instant::now();
    let (homeserver, server, alice) = start_with(&environment).await;
    let version = create_backup(&server, &alice).await;
    let devices = [alice.clone(), homeserver.login(&alice.user_id)];
    let (mut device, mut served) = (devices.iter().cycle(), 0);
    let refused = until("a refusal", async || {
        let answer = server.get(CURRENT, device.next()?).await;
        served += usize::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    })
    .await;
    let flowed_in = begin.elapsed().as_secs() as usize;
    assert!((9..=9 + flowed_in).contains(&served), "{served} in {:?}", begin.elapsed());
    assert_refused(&refused, 429, "M_LIMIT_EXCEEDED");
    assert_says_when_to_retry(&refused);
    assert!(refused.json["retry_after_ms"].as_u64() <= Some(1000), "{refused:?}");

    let key = format!("/room_keys/keys/!r:x/s?version={version}");
    let put = until("a refused upload", async || {
        let put = server.put(&key, &alice, room_key(true, 0, 0, "k")).await;
        (put.status == 429).then_some(put)
    });
    assert_refused(&put.await, 429, "M_LIMIT_EXCEEDED");
    let bob = homeserver.login("@bob:example.org");
    assert_ok(&server.post(CURRENT, &bob, new_version()).await);
    assert_ok(&server.get(CURRENT, &bob).await);
    let again = until("Alice to be served", async || {
        let answer = server.get(CURRENT, &alice).await;
        (answer.status == 200).then_some(answer)
    });
    assert_ok(&again.await);
}

/// So many requests at once, and hardly any after that.
const FEW: [(&str, &str); 2] = [
    ("STRONGROOM_LIMITS_ADDRESS_REQUESTS_PER_SECOND", "1"),
    ("STRONGROOM_LIMITS_ADDRESS_REQUESTS_BURST", "20"),
];

#[tokio::test]
async fn an_address_beyond_the_limit_is_refused_before_anybody_is_asked() {
    // No proxy of ours is on this machine, so that we are ordinary clients.
    let environment = [FEW[0], FEW[1], ("STRONGROOM_TRUSTED_PROXIES", "10.9.9.9")];
    let begin = Instant::now();
    let (homeserver, server, alice) = start_with(&environment).await;
    let mut forged = 0;
    let mut hostile = Wire::open_from("127.0.0.1", server.address()).await;
    let mut ask = async |method: &str| {
        forged += 1;
        let head =
            format!("{method} {PATH} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 9.9.9.{forged}");
        hostile.ask(format!("{head}\r\n\r\n")).await
    };
    for _ in 0..20 {
        let answer = ask("GET").await;
        assert_eq!(answer.refusal(), (401, "M_MISSING_TOKEN"), "{answer:?}");
    }
    let mut more = 0;
    let refused = loop {
        let answer = ask("GET").await;
        if answer.status == 429 {
            break answer;
        }
        more += 1;
        assert!(more <= begin.elapsed().as_secs(), "{more} more in {:?}", begin.elapsed());
    };
    assert_eq!(refused.refusal(), (429, "M_LIMIT_EXCEEDED"), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"), "{refused:?}");
    let preflight = ask("OPTIONS").await;
    assert_eq!(preflight.status, 204, "a browser must get as far as to see the 429");
    // A good token does not help, and is not asked about.
    let answer = until("a refusal", async || {
        let answer = server.get(CURRENT, &alice).await;
        (answer.status == 429).then_some(answer)
    });
    assert_says_when_to_retry(&answer.await);
    assert!(homeserver.whoami_count() <= 1);

    let mut other = Wire::open_from("127.0.0.2", server.address()).await;
    let answer = other.ask(head(&alice, "GET", PATH) + "\r\n").await;
    assert_eq!(answer.refusal(), (404, "M_NOT_FOUND"), "{answer:?}");
}

/// Asks as a proxy would that names `client`.
async fn ask_for(server: &Server, user: &User, client: &str) -> Answer {
    let authorization = bearer(user);
    let headers = [("authorization", authorization.as_str()), ("x-forwarded-for", client)];
    server.raw("GET", PATH, &headers, "").await
}

#[tokio::test]
async fn behind_a_proxy_the_last_entry_of_x_forwarded_for_is_the_client() {
    let (_homeserver, server, alice) = start_with(&FEW).await;
    for (exhausted, the_same, others) in [
        (
            "203.0.113.7",
            &["203.0.113.7", "1.2.3.4, 203.0.113.7", "x, 203.0.113.7, 127.0.0.1"][..],
            &["203.0.113.8", "203.0.113.7, 203.0.113.9", "203.0.113.7, unknown", ""][..],
        ),
        (
            "2001:db8:0:7::1",
            &["2001:db8:0:7:ffff:ffff:ffff:ffff", "[2001:db8:0:7::2]:443"],
            &["2001:db8:0:8::1", "2001:db8:0:6::1"],
        ),
    ] {
        let refused = |answer: Answer| (answer.status == 429).then_some(answer);
        let ask = async || refused(ask_for(&server, &alice, exhausted).await);
        let answer = until(exhausted, ask).await;
        assert_refused(&answer, 429, "M_LIMIT_EXCEEDED");
        for client in the_same {
            until(client, async || refused(ask_for(&server, &alice, client).await)).await;
        }
        for client in others {
            let answer = ask_for(&server, &alice, client).await;
            assert_refused(&answer, 404, "M_NOT_FOUND");
        }
    }
    // Whom no proxy names, it is no single client.
    for _ in 0..60 {
        assert_refused(&server.get(CURRENT, &alice).await, 404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn over_a_unix_socket_a_proxy_is_trusted() {
    let serve = Serve::new();
    let socket = serve.path("socket");
    let listen = format!("unix:{}", socket.display());
    let mut process = serve.start(&serve.path("data"), &listen, &FEW);
    listening(&mut process).await;
    let ask = async |lines: &str| ask_over_with(&socket, lines).await;
    until("a refusal", async || {
        let answer = ask("x-forwarded-for: 127.0.0.1, 203.0.113.7\r\n").await;
        answer.contains("M_LIMIT_EXCEEDED").then_some(())
    })
    .await;
    for lines in ["x-forwarded-for: 203.0.113.7, 203.0.113.8\r\n", ""] {
        let answer = ask(lines).await;
        assert!(answer.contains("M_NOT_FOUND"), "{lines}: {answer}");
    }
    stop(process).await;
}
