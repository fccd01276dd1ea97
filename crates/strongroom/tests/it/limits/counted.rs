//! The operator sees a client that is stuck, and what the limits did.

use serde_json::json;
use strongroom_testing::{Fault, SECRET, Server, until};
use tokio::task::JoinSet;

use super::{CURRENT, PATH};
use crate::{
    client::{assert_refused, create_backup, start_with},
    hostile::wire::{Alice, ROOT, Wire, chunk, head},
    running::operator,
};

const OPERATOR: (&str, &str) = ("STRONGROOM_OPERATOR_LISTEN", "127.0.0.1:0");

/// What is counted under a name, such as `requests_in_flight`, now.
async fn counted(server: &Server, name: &str) -> Option<u64> {
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    let metrics = Wire::open(operator(server).await).await.ask(request).await;
    let text = String::from_utf8(metrics.body).expect("UTF-8");
    let name = format!("strongroom_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).and_then(|count| count.parse().ok())
}

#[tokio::test]
async fn refusals_are_counted_by_errcode_and_the_log_names_it() {
    let environment =
        [OPERATOR, ("STRONGROOM_AUTH_CACHE_TTL", "0s"), ("STRONGROOM_AUTH_REFUSED_TTL", "0s")];
    let (homeserver, server, alice) = start_with(&environment).await;
    let version = create_backup(&server, &alice).await;
    let keys = format!("/room_keys/keys?version={version}");
    for _ in 0..3 {
        let put = server.put(&keys, &alice, json!({ "rooms": [] })).await;
        assert_refused(&put, 400, "M_BAD_JSON");
    }
    homeserver.misbehave(Fault::Locked);
    assert_refused(&server.get(CURRENT, &alice).await, 401, "M_USER_LOCKED");
    let made_up = json!({ "errcode": "ORG.EXAMPLE_MADE_UP", "error": "?" }).to_string();
    homeserver.misbehave(Fault::Status(403, "application/json", made_up));
    assert_refused(&server.get(CURRENT, &alice).await, 403, "ORG.EXAMPLE_MADE_UP");
    for (errcode, times) in
        [("M_BAD_JSON", Some(3)), ("M_USER_LOCKED", Some(1)), ("M_UNKNOWN", Some(1))]
    {
        let name = format!("refusals_total{{errcode=\"{errcode}\"}}");
        assert_eq!(counted(&server, &name).await, times, "{errcode}");
    }
    assert_eq!(counted(&server, r#"refusals_total{errcode="ORG.EXAMPLE_MADE_UP"}"#).await, None);
    let told = r#"operation=PUT keys status=400 errcode="M_BAD_JSON" ms="#;
    until("three lines in the log", async || {
        (server.output().matches(told).count() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_each_limit_held_off_is_counted() {
    let stranger = format!("authorization: Bearer {SECRET}\r\n");
    let (user, address) = ("STRONGROOM_LIMITS_USER_REQUESTS", "STRONGROOM_LIMITS_ADDRESS_REQUESTS");
    for (limit, options, header) in [
        (
            "user_requests",
            [(format!("{user}_PER_SECOND"), "1"), (format!("{user}_BURST"), "1")],
            "",
        ),
        (
            "address_requests",
            [(format!("{address}_PER_SECOND"), "1"), (format!("{address}_BURST"), "1")],
            "",
        ),
        (
            "address_failures",
            [
                ("STRONGROOM_LIMITS_ADDRESS_FAILURES_PER_SECOND".to_owned(), "1"),
                ("STRONGROOM_LIMITS_ADDRESS_FAILURES_BURST".to_owned(), "1"),
            ],
            stranger.as_str(),
        ),
        (
            "wrong_tokens",
            [
                ("STRONGROOM_AUTH_WRONG_TOKENS_PER_SECOND".to_owned(), "1"),
                ("STRONGROOM_AUTH_WRONG_TOKENS_BURST".to_owned(), "1"),
            ],
            stranger.as_str(),
        ),
    ] {
        let mut environment = vec![OPERATOR, ("STRONGROOM_AUTH_REFUSED_TTL", "0s")];
        environment.extend(options.iter().map(|(name, value)| (name.as_str(), *value)));
        let (_homeserver, server, alice) = start_with(&environment).await;
        let request = match header {
            "" => head(&alice, "GET", PATH),
            header => format!("GET {PATH} HTTP/1.1\r\nhost: x\r\n{header}"),
        };
        let request = format!("{request}x-forwarded-for: 203.0.113.1\r\n\r\n");
        let mut refused = 0;
        until("two refusals", async || {
            let status = Wire::open(server.address()).await.ask(&request).await.status;
            refused += u64::from([429, 503].contains(&status));
            (refused == 2).then_some(())
        })
        .await;
        let name = format!("limited_total{{limit=\"{limit}\"}}");
        assert_eq!(counted(&server, &name).await, Some(2), "{limit}");
    }
}

#[tokio::test]
async fn connections_that_were_closed_are_counted_by_the_reason() {
    let alice = Alice::new(&[
        OPERATOR,
        ("STRONGROOM_LIMITS_CONNECTIONS_MAX", "3"),
        ("STRONGROOM_LIMITS_CONNECTIONS_PER_ADDRESS_MAX", "2"),
        ("STRONGROOM_LIMITS_HEADER_FINISH_TIMEOUT", "1s"),
        ("STRONGROOM_TRUSTED_PROXIES", "10.9.9.9"),
    ])
    .await;
    let closed = async |reason: &str| {
        let name = format!("connections_closed_total{{reason=\"{reason}\"}}");
        counted(&alice.server, &name).await
    };
    let version = alice.request("GET", &format!("{ROOT}/version"), "");
    assert_eq!(counted(&alice.server, "connections").await, Some(1));

    let mut wires = [alice.wire().await, alice.wire().await];
    for wire in &mut wires {
        assert_eq!(wire.ask(&version).await.status, 200);
    }
    assert_eq!(closed("made_place").await, Some(1));
    assert_eq!(counted(&alice.server, "connections").await, Some(2));

    for wire in &mut wires {
        let head = alice.head("PUT", &alice.keys(""));
        let head = head + "transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n";
        assert_eq!(wire.ask(head).await.status, 100);
    }
    let third = alice.wire().await.closed().await;
    assert_eq!(third.unwrap_or(0), 0, "it was served");
    assert_eq!(closed("address_has_all").await, Some(1));
    for wire in &mut wires {
        let put = wire.ask([chunk(br#"{"rooms":{}}"#), chunk(b"")].concat()).await;
        assert_eq!(put.status, 200, "{put:?}");
    }

    let [mut first, _] = wires;
    first.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(first.closed().await.ok(), Some(0));
    assert_eq!(closed("header_unfinished").await, Some(1));
}

#[tokio::test]
async fn only_so_many_connections_send_the_rest_of_what_was_refused() {
    let alice = Alice::new(&[OPERATOR]).await;
    let head = format!("PUT {ROOT}/keys HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n ");
    let mut wires = JoinSet::new();
    for _ in 0..600 {
        let mut wire = alice.wire().await;
        wire.send(&head).await;
        wires.spawn(async move { wire.reply().await });
    }
    for _ in 0..88 {
        let reply = wires.join_next().await.expect("600 of them").expect("an answer");
        assert_eq!(reply.refusal(), (401, "M_MISSING_TOKEN"), "{reply:?}");
    }
    // The others are still waited for.
    let in_flight = counted(&alice.server, "requests_in_flight").await;
    assert!(in_flight.is_some_and(|count| (1..=512).contains(&count)), "{in_flight:?}");
    alice.is_served().await;
}
