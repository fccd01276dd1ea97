//! Connections that nobody uses make place for those that somebody needs.

use std::iter;

use serde_json::{Value, json};
use strongroom_testing::until;

use crate::{
    hostile::wire::{Alice, ROOT, SLOWLY, Wire, chunk},
    restoring::{stalled, with_ten_megabytes},
};

/// The address of this machine from which the tests that need two have their second client.
const ELSEWHERE: &str = "127.0.0.2";

/// A request that is served, over this connection.
async fn is_served_on(alice: &Alice, wire: &mut Wire) {
    let got = wire.ask(alice.request("GET", &format!("{ROOT}/version"), "")).await;
    assert_eq!((got.status, &got.json["version"]), (200, &json!(alice.version)), "{got:?}");
}

/// An upload of which the server has seen the head, and waits for the rest.
async fn begin_upload(alice: &Alice, wire: &mut Wire) {
    let head = alice.head("PUT", &alice.keys(""));
    let head = head + "transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n";
    assert_eq!(wire.ask(head).await.status, 100);
}

/// The rest of it.
async fn finish_upload(wire: &mut Wire) {
    let put = wire.ask([chunk(br#"{"rooms":{}}"#), chunk(b"")].concat()).await;
    assert_eq!(put.status, 200, "{put:?}");
}

#[tokio::test]
async fn a_new_connection_gets_the_place_of_the_one_that_is_idle_for_the_longest() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_CONNECTIONS_MAX", "4")]).await;
    // One place has the connection over which Alice made her backup.
    let [mut first, mut second, mut third] =
        [alice.wire().await, alice.wire().await, alice.wire().await];
    for wire in [&mut third, &mut second, &mut first] {
        is_served_on(&alice, wire).await;
    }
    let [mut fourth, mut fifth] = [alice.wire().await, alice.wire().await];
    is_served_on(&alice, &mut fourth).await;
    is_served_on(&alice, &mut fifth).await;
    assert_eq!(third.closed().await.ok(), Some(0));
    for wire in [&mut first, &mut second, &mut fourth, &mut fifth] {
        is_served_on(&alice, wire).await;
    }
    // And who lost a place gets another one.
    alice.is_served().await;
}

#[tokio::test]
async fn who_has_a_request_in_flight_makes_place_for_nobody() {
    let environment = [("STRONGROOM_LIMITS_CONNECTIONS_MAX", "3")];
    let (alice, rooms) = with_ten_megabytes(&environment).await;
    let (mut restore, _) = stalled(&alice, "HTTP/1.1").await;
    let mut upload = alice.wire().await;
    begin_upload(&alice, &mut upload).await;
    for _ in 0..20 {
        is_served_on(&alice, &mut alice.wire().await).await;
    }
    let document = restore.chunks().await.expect("a whole document");
    let document: Value = serde_json::from_slice(&document).expect("strict JSON");
    assert!(document["rooms"] == rooms, "it is not what was put");
    finish_upload(&mut upload).await;
}

#[tokio::test]
async fn if_all_connections_are_in_use_a_further_one_waits() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_CONNECTIONS_MAX", "2")]).await;
    let mut uploads = [alice.wire().await, alice.wire().await];
    for upload in &mut uploads {
        begin_upload(&alice, upload).await;
    }
    let mut waiting = alice.wire().await;
    waiting.send(alice.request("GET", &format!("{ROOT}/version"), "")).await;
    let [mut first, mut second] = uploads;
    {
        let reply = waiting.reply();
        tokio::pin!(reply);
        tokio::select! {
            reply = &mut reply => panic!("it did not wait: {reply:?}"),
            () = finish_upload(&mut first) => {}
        }
        let reply = reply.await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    finish_upload(&mut second).await;
}

#[tokio::test]
async fn ten_thousand_idle_connections_disturb_nobody() {
    rlimit::increase_nofile_limit(u64::MAX).expect("Linux");
    let alice = Alice::new(&[]).await;
    let before = alice.server.memory_bytes();
    let beginnings = ["", "G", "GET / HTTP/1.1\r\nhost: x\r\nx: "];
    let mut idle = Vec::new();
    for (number, beginning) in iter::zip(0..10_000, beginnings.into_iter().cycle()) {
        // Each address has only so many ports.
        let source = format!("127.0.1.{}", number % 4);
        let mut wire = Wire::open_from(&source, alice.server.address()).await;
        wire.send(beginning).await;
        idle.push(wire);
        if number % 500 == 0 {
            alice.is_served().await;
            is_served_on(&alice, &mut alice.wire().await).await;
        }
    }
    let grown = alice.server.memory_bytes().saturating_sub(before);
    assert!(grown < 256 * 1024 * 1024, "10,000 idle connections take {grown} bytes");
    // The newest are still there.
    let mut newest = idle.pop().expect("10,000 of them");
    is_served_on(&alice, &mut newest).await;
    assert_eq!(idle.swap_remove(0).closed().await.ok(), Some(0), "the oldest is still there");
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_takes_none_of_others() {
    let environment = [
        ("STRONGROOM_LIMITS_CONNECTIONS_PER_ADDRESS_MAX", "3"),
        ("STRONGROOM_TRUSTED_PROXIES", "10.9.9.9"),
    ];
    let alice = Alice::new(&environment).await;
    let elsewhere = async || Wire::open_from(ELSEWHERE, alice.server.address()).await;
    let mut other = elsewhere().await;
    is_served_on(&alice, &mut other).await;

    // The third is Alice's own, from before, and makes place.
    let mut uploads = [alice.wire().await, alice.wire().await, alice.wire().await];
    for upload in &mut uploads {
        begin_upload(&alice, upload).await;
    }
    for _ in 0..5 {
        let mut refused = alice.wire().await;
        // It may be closed before it has sent anything.
        let _ = refused.try_send(alice.request("GET", &format!("{ROOT}/version"), "")).await;
        assert_eq!(refused.closed().await.unwrap_or(0), 0, "it was answered");
        is_served_on(&alice, &mut elsewhere().await).await;
    }
    is_served_on(&alice, &mut other).await;
    for upload in &mut uploads {
        finish_upload(upload).await;
    }
    let mut again = alice.wire().await;
    is_served_on(&alice, &mut again).await;
    assert_eq!(uploads[0].closed().await.ok(), Some(0));
    for wire in [&mut other, &mut again] {
        is_served_on(&alice, wire).await;
    }
    let output = alice.server.output();
    assert_eq!(output.matches("trusted_proxies").count(), 1, "{output}");
}

#[tokio::test]
async fn trusted_proxies_have_as_many_connections_as_there_are() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_CONNECTIONS_PER_ADDRESS_MAX", "2")]).await;
    let mut uploads = Vec::new();
    for _ in 0..5 {
        let mut upload = alice.wire().await;
        begin_upload(&alice, &mut upload).await;
        uploads.push(upload);
    }
    for upload in &mut uploads {
        finish_upload(upload).await;
    }
}

#[tokio::test]
async fn a_header_that_has_begun_comes_to_its_end_in_time_or_the_connection_does() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_HEADER_FINISH_TIMEOUT", "1s")]).await;
    let [mut silent, mut idle, mut half, mut later, mut slow, mut upload] = [
        alice.wire().await,
        alice.wire().await,
        alice.wire().await,
        alice.wire().await,
        alice.wire().await,
        alice.wire().await,
    ];
    is_served_on(&alice, &mut idle).await;
    half.send("GET / HTTP/1.1\r\nhost: ").await;
    is_served_on(&alice, &mut later).await;
    later.send("G").await;
    begin_upload(&alice, &mut upload).await;
    until("a slow header to be cut off", async || slow.try_send("a").await.err()).await;
    for wire in [&mut half, &mut later] {
        let closed = wire.closed().await;
        assert!(closed.is_ok_and(|bytes| bytes == 0));
    }
    // Nothing has begun on these, or more than a header.
    for wire in [&mut silent, &mut idle] {
        is_served_on(&alice, wire).await;
    }
    finish_upload(&mut upload).await;

    // A slow one that is in time, on a connection that has served before.
    let request = alice.request("GET", &format!("{ROOT}/version"), "");
    for _ in 0..3 {
        for piece in [&request[..1], &request[1..9]] {
            idle.send(piece).await;
            tokio::time::sleep(SLOWLY).await;
        }
        let got = idle.ask(&request[9..]).await;
        assert_eq!(got.status, 200, "{got:?}");
        tokio::time::sleep(SLOWLY * 3).await;
    }
}
