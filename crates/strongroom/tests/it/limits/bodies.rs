//! Nobody holds the memory for uploads by sending slowly.

use std::time::Instant;

use strongroom_testing::until;
use tokio::task::JoinSet;

use super::CURRENT;
use crate::{
    client::{assert_ok, create_backup, start_with},
    hostile::wire::{Alice, SLOWLY, Wire, chunk, head},
};

#[tokio::test]
async fn one_user_holds_no_more_than_a_share_of_the_memory_for_bodies() {
    let environment = [
        ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "65536"),
        ("STRONGROOM_LIMITS_BODIES_IN_FLIGHT_BYTES_MAX", "262144"),
        ("STRONGROOM_LIMITS_BODY_IDLE_TIMEOUT", "3s"),
    ];
    let (homeserver, server, alice) = start_with(&environment).await;
    let bob = homeserver.login("@bob:example.org");
    let path = |version| format!("/_matrix/client/v3/room_keys/keys?version={version}");
    let target = path(create_backup(&server, &alice).await);
    // Whole, these four would fill it.
    let mut uploads = JoinSet::new();
    for _ in 0..4 {
        let mut wire = Wire::open(server.address()).await;
        wire.send(head(&alice, "PUT", &target) + "content-length: 65536\r\n\r\n").await;
        uploads.spawn(async move {
            // It goes on, if slowly, as long as the server waits for it.
            loop {
                tokio::select! {
                    reply = wire.reply_head() => break reply,
                    () = tokio::time::sleep(SLOWLY) => wire.send(" ").await,
                }
            }
        });
    }
    let body = " ".repeat(60_000) + r#"{"rooms":{}}"#;
    let target = path(create_backup(&server, &bob).await);
    let upload =
        format!("{}content-length: {}\r\n\r\n{body}", head(&bob, "PUT", &target), body.len());
    // All the time, until three of the four were told to come again and the other one is alone.
    let mut refused = 0;
    while refused < 3 {
        let put = Wire::open(server.address()).await.ask(&upload).await;
        assert_eq!(put.status, 200, "{put:?}");
        while let Some(reply) = uploads.try_join_next() {
            let reply = reply.expect("no panic").expect("an answer");
            assert!(reply.contains(" 503 "), "{reply}");
            refused += 1;
        }
    }
    assert_ok(&server.get(CURRENT, &alice).await);
}

/// A second of grace, and then a thousand bytes a second.
const FAST: [(&str, &str); 2] = [
    ("STRONGROOM_LIMITS_BODY_GRACE", "1s"),
    ("STRONGROOM_LIMITS_BODY_BYTES_PER_SECOND_MIN", "1000"),
];

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let alice = Alice::new(&FAST).await;
    let begin = Instant::now();
    let mut slow = alice.wire().await;
    slow.send(alice.head("PUT", &alice.keys("")) + "content-length: 1000000\r\n\r\n").await;
    let reply = until("to be given up", async || {
        slow.send("  ").await;
        tokio::time::timeout(SLOWLY, slow.reply()).await.ok()
    });
    let reply = reply.await;
    assert_eq!(reply.refusal(), (408, "M_UNKNOWN"), "{reply:?}");
    assert!(begin.elapsed().as_millis() >= 1000, "after {:?}", begin.elapsed());
    alice.is_served().await;
}

#[tokio::test]
async fn a_body_that_is_just_fast_enough_is_taken_however_long_it_takes() {
    let alice = Alice::new(&FAST).await;
    let mut steady = alice.wire().await;
    steady.send(alice.head("PUT", &alice.keys("")) + "transfer-encoding: chunked\r\n\r\n").await;
    let begin = Instant::now();
    // Ten times what is demanded: a busy machine may be slow now and then.
    while begin.elapsed().as_secs() < 4 {
        steady.send(chunk(&[b' '; 1000])).await;
        tokio::time::sleep(SLOWLY).await;
    }
    let put = steady.ask([chunk(br#"{"rooms":{}}"#), chunk(b"")].concat()).await;
    assert_eq!(put.status, 200, "{put:?}");
}
