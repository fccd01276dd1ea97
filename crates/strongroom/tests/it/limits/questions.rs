//! A flood of tokens here is none at the homeserver, and keeps out nobody who is known.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use strongroom_testing::{Fault, Homeserver, SECRET, Server, User, until};
use tokio::task::{JoinSet, LocalSet};

use super::{CURRENT, PATH, ask_for};
use crate::{
    client::{
        BINARY, assert_ok, assert_refused, assert_says_when_to_retry, create_backup, new_version,
        start_with,
    },
    hostile::wire::{Wire, head},
};

/// A token that nobody has.
fn stranger(number: usize) -> User {
    let token = format!("{SECRET}_{number}");
    User { user_id: "@nobody:example.org".to_owned(), token, device_id: None }
}

/// One address of many.
fn somewhere(number: usize) -> String {
    format!("198.18.{}.{}", number / 256 % 256, number % 256)
}

/// What came of a flood.
#[derive(Debug, Default)]
struct Flood {
    refused: AtomicUsize,
    held_up: AtomicUsize,
}

/// Sends so many requests, each with another wrong token, each from another address.
async fn flood(server: &Server, method: &'static str, requests: usize) -> Arc<Flood> {
    let (address, next, flood) =
        (server.address(), Arc::new(AtomicUsize::new(0)), Arc::<Flood>::default());
    let mut connections = JoinSet::new();
    for _ in 0..50 {
        let (next, flood) = (Arc::clone(&next), Arc::clone(&flood));
        connections.spawn(async move {
            let mut wire = Wire::open(address).await;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    break;
                }
                let head = head(&stranger(number), method, PATH);
                let from = somewhere(number);
                let reply = wire.ask(format!("{head}x-forwarded-for: {from}\r\n\r\n")).await;
                let count = match reply.refusal() {
                    (401, "M_UNKNOWN_TOKEN") => &flood.refused,
                    (503, "M_UNKNOWN") => &flood.held_up,
                    _ => panic!("{reply:?}"),
                };
                assert!(reply.status == 401 || reply.header("retry-after").is_some(), "{reply:?}");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(connection) = connections.join_next().await {
        connection.expect("an answer to each");
    }
    flood
}

#[tokio::test]
async fn ten_thousand_wrong_tokens_are_few_questions_and_keep_out_nobody_who_is_known() {
    let environment = [
        ("STRONGROOM_AUTH_WRONG_TOKENS_PER_SECOND", "20"),
        ("STRONGROOM_AUTH_WRONG_TOKENS_BURST", "100"),
        // Known, and yet asked about each time.
        ("STRONGROOM_AUTH_CACHE_TTL", "0s"),
    ];
    let (homeserver, server, alice) = start_with(&environment).await;
    let home = "203.0.113.1";
    create_backup(&server, &alice).await;
    assert_ok(&ask_for(&server, &alice, home).await);
    let (before, begin) = (homeserver.whoami_count(), Instant::now());

    let flood = flood(&server, "GET", 10_000);
    tokio::pin!(flood);
    let mut honest = 0;
    let flood = loop {
        tokio::select! {
            flood = &mut flood => break flood,
            () = async {
                assert_ok(&ask_for(&server, &alice, home).await);
                // The same person, with a token that is new.
                let renewed = homeserver.login(&alice.user_id);
                assert_ok(&ask_for(&server, &renewed, home).await);
            } => honest += 2,
        }
    };
    assert!(honest >= 20, "{honest}");
    let questions = homeserver.whoami_count() - before - honest;
    // Those that were under way when the last one was counted come on top.
    let most = 100 + 20 * (begin.elapsed().as_secs() as usize + 1) + 48;
    // Alice's last requests were perhaps cut off.
    assert!(questions <= most + 2, "{questions} questions in {:?}", begin.elapsed());
    let refused = flood.refused.load(Ordering::Relaxed);
    assert!(refused <= questions, "{refused} were refused after {questions} questions");
    assert_eq!(flood.held_up.load(Ordering::Relaxed), 10_000 - refused);

    // A stranger from elsewhere is let in as soon as it has ebbed away.
    let newcomer = homeserver.login("@newcomer:example.org");
    until("a stranger to be asked about", async || {
        let answer = server.get(CURRENT, &newcomer).await;
        assert!([404, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_that_ask_afresh_pass_the_same_gate() {
    let environment = [
        ("STRONGROOM_AUTH_WRONG_TOKENS_PER_SECOND", "1"),
        ("STRONGROOM_AUTH_WRONG_TOKENS_BURST", "10"),
    ];
    let (homeserver, server, alice) = start_with(&environment).await;
    create_backup(&server, &alice).await;
    let (before, begin) = (homeserver.whoami_count(), Instant::now());
    flood(&server, "POST", 500).await;
    let questions = homeserver.whoami_count() - before;
    let most = 10 + begin.elapsed().as_secs() as usize + 1 + 48;
    assert!(questions <= most, "{questions} questions in {:?}", begin.elapsed());
    assert_ok(&server.post(CURRENT, &alice, new_version()).await);
}

#[tokio::test]
async fn an_address_with_too_many_wrong_tokens_is_told_so_without_asking() {
    for is_behind_a_proxy in [true, false] {
        let trusted = if is_behind_a_proxy { "127.0.0.1" } else { "10.9.9.9" };
        let environment = [
            ("STRONGROOM_LIMITS_ADDRESS_FAILURES_PER_SECOND", "1"),
            ("STRONGROOM_LIMITS_ADDRESS_FAILURES_BURST", "5"),
            ("STRONGROOM_TRUSTED_PROXIES", trusted),
        ];
        let (homeserver, server, alice) = start_with(&environment).await;
        create_backup(&server, &alice).await;
        let newcomer = homeserver.login("@newcomer:example.org");
        let before = homeserver.whoami_count();
        // Behind the proxy the last one counts, else none of it.
        let ask = async |user: &User, forged: usize| {
            ask_for(&server, user, &format!("203.0.113.{forged}, 198.18.0.1")).await
        };
        let mut wrong = 0;
        let refused = until("a refusal", async || {
            wrong += 1;
            let answer = ask(&stranger(wrong), wrong).await;
            assert!([401, 429].contains(&answer.status), "{answer:?}");
            (answer.status == 429).then_some(answer)
        })
        .await;
        assert_refused(&refused, 429, "M_LIMIT_EXCEEDED");
        assert_says_when_to_retry(&refused);
        assert!(wrong > 5, "{wrong}");
        assert_eq!(homeserver.whoami_count() - before, wrong - 1);

        // From the same address: who is known is served, and who is not comes again.
        assert_ok(&ask(&alice, wrong).await);
        let (mut wrong, asked) = (1000, homeserver.whoami_count());
        let refused = until("the newcomer to be refused", async || {
            wrong += 1;
            ask(&stranger(wrong), 1).await;
            let answer = ask(&newcomer, 1).await;
            (answer.status == 429).then_some(answer)
        });
        assert_refused(&refused.await, 429, "M_LIMIT_EXCEEDED");
        until("the newcomer to be served", async || {
            (ask(&newcomer, 1).await.status == 404).then_some(())
        })
        .await;
        assert!(homeserver.whoami_count() > asked);

        // From another one.
        let other = homeserver.login("@other:example.org");
        let answer = if is_behind_a_proxy {
            ask_for(&server, &other, "203.0.113.9").await.status
        } else {
            let mut wire = Wire::open_from("127.0.0.2", server.address()).await;
            wire.ask(head(&other, "GET", PATH) + "\r\n").await.status
        };
        assert_eq!(answer, 404);
    }
}

#[tokio::test]
async fn who_hangs_up_before_the_answer_has_failed() {
    let environment = [
        ("STRONGROOM_LIMITS_ADDRESS_FAILURES_PER_SECOND", "1"),
        ("STRONGROOM_LIMITS_ADDRESS_FAILURES_BURST", "10"),
        ("STRONGROOM_TRUSTED_PROXIES", "10.9.9.9"),
    ];
    let (homeserver, server, _) = start_with(&environment).await;
    homeserver.misbehave(Fault::Stall);
    let mut number = 0;
    let refused = until("a refusal", async || {
        number += 1;
        let mut wire = Wire::open(server.address()).await;
        wire.send(head(&stranger(number), "GET", PATH) + "\r\n").await;
        tokio::select! {
            reply = wire.reply() => Some(reply),
            () = until("the question", async || {
                (homeserver.whoami_count() >= number).then_some(())
            }) => None,
        }
    })
    .await;
    assert_eq!(refused.refusal(), (429, "M_LIMIT_EXCEEDED"), "{refused:?}");
    assert!(number > 10, "{number}");
}

/// Asks until it is let in, as clients do, and fails if it is ever told anything but to come again.
async fn come_in(server: &Server, user: &User) -> usize {
    let mut answers = 0;
    until("to be let in", async || {
        answers += 1;
        let answer = ask_for(server, user, "203.0.113.1").await;
        assert!([404, 502, 503].contains(&answer.status), "{answer:?}");
        if answer.status != 404 {
            assert_says_when_to_retry(&answer);
        }
        (answer.status == 404).then_some(())
    })
    .await;
    answers
}

/// Little of everything.
const NARROW: [(&str, &str); 7] = [
    ("STRONGROOM_AUTH_QUESTIONS_MAX", "8"),
    ("STRONGROOM_AUTH_QUESTIONS_WAITING_MAX", "50"),
    ("STRONGROOM_AUTH_WRONG_TOKENS_PER_SECOND", "10"),
    ("STRONGROOM_AUTH_WRONG_TOKENS_BURST", "5"),
    ("STRONGROOM_LIMITS_ADDRESS_FAILURES_PER_SECOND", "1"),
    ("STRONGROOM_LIMITS_ADDRESS_FAILURES_BURST", "1"),
    ("STRONGROOM_AUTH_TIMEOUT", "2s"),
];

#[tokio::test]
async fn hundreds_of_clients_at_a_cold_start_come_in_and_none_is_sent_away() {
    let (homeserver, server, _) = start_with(&NARROW).await;
    homeserver.misbehave(Fault::Slow(Duration::from_millis(20)));
    let server = Rc::new(server);
    let mut clients = JoinSet::new();
    let together = LocalSet::new();
    for number in 0..500 {
        let (server, user) =
            (Rc::clone(&server), homeserver.login(&format!("@{number}:example.org")));
        clients.spawn_local_on(async move { come_in(&server, &user).await }, &together);
    }
    let answers = together.run_until(clients.join_all()).await.into_iter().sum::<usize>();
    assert!(answers > 500, "the queue was never full");
}

#[tokio::test]
async fn after_the_homeserver_was_away_everybody_comes_in_again() {
    let (mut homeserver, server, _) = start_with(&NARROW).await;
    let users: Vec<_> =
        (0..100).map(|number| homeserver.login(&format!("@{number}:example.org"))).collect();
    homeserver.stop().await;
    for user in &users {
        let answer = ask_for(&server, user, "203.0.113.1").await;
        assert!([502, 503].contains(&answer.status), "{answer:?}");
        assert_says_when_to_retry(&answer);
    }
    homeserver.restart().await;
    for user in &users {
        come_in(&server, user).await;
    }
}

#[tokio::test]
async fn questions_beyond_the_queue_are_told_to_come_again_and_who_is_known_waits_for_nobody() {
    let environment = [
        ("STRONGROOM_AUTH_QUESTIONS_MAX", "2"),
        ("STRONGROOM_AUTH_QUESTIONS_WAITING_MAX", "3"),
        ("STRONGROOM_AUTH_CACHE_TTL", "0s"),
        ("STRONGROOM_AUTH_TIMEOUT", "30s"),
    ];
    let (homeserver, server, alice) = start_with(&environment).await;
    create_backup(&server, &alice).await;
    let asked = homeserver.whoami_count();
    homeserver.misbehave(Fault::Stall);
    let mut strangers = JoinSet::new();
    for number in 0..10 {
        let mut wire = Wire::open(server.address()).await;
        let request = head(&stranger(number), "GET", PATH) + "\r\n";
        strangers.spawn(async move { wire.ask(request).await });
    }
    // One is asked about, and three wait.
    for _ in 0..6 {
        let refused = strangers.join_next().await.expect("ten of them").expect("an answer");
        assert_eq!(refused.refusal(), (503, "M_UNKNOWN"), "{refused:?}");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    until("the question", async || (homeserver.whoami_count() > asked).then_some(())).await;
    assert_eq!(homeserver.whoami_count(), asked + 1, "strangers take the last place");

    homeserver.misbehave(Fault::None);
    for _ in 0..3 {
        assert_ok(&server.get(CURRENT, &alice).await);
        assert_ok(&server.post(CURRENT, &alice, new_version()).await);
    }
    assert!(strangers.try_join_next().is_none(), "they were not waiting");
}

#[tokio::test]
async fn of_one_token_one_question_is_under_way() {
    let (homeserver, server, alice) = start_with(&[]).await;
    let version = create_backup(&server, &alice).await;
    let before = homeserver.whoami_count();
    homeserver.misbehave(Fault::Slow(Duration::from_millis(500)));
    let (server, mut requests) = (Arc::new(server), JoinSet::new());
    for _ in 0..50 {
        let (server, alice) = (Arc::clone(&server), alice.clone());
        let path = format!("/room_keys/keys?version={version}");
        requests.spawn(async move { server.delete(&path, &alice).await });
    }
    for answer in requests.join_all().await {
        assert_ok(&answer);
    }
    // One, and the one that all who came meanwhile share; a slow machine may send them in turns.
    let questions = homeserver.whoami_count() - before;
    assert!((2..10).contains(&questions), "{questions}");
}

#[tokio::test]
async fn a_token_that_nobody_can_have_is_refused_without_asking() {
    let homeserver = Homeserver::start().await;
    let server = Server::spawn(BINARY, &homeserver).await;
    for token in ["a b", "a\tb", &"x".repeat(8 * 1024 + 1), &"x".repeat(50_000)] {
        let authorization = format!("Bearer {token}");
        for method in ["GET", "POST"] {
            let headers = [("authorization", authorization.as_str())];
            let answer = server.raw(method, PATH, &headers, "{}").await;
            assert_refused(&answer, 401, "M_UNKNOWN_TOKEN");
        }
    }
    assert_eq!(homeserver.whoami_count(), 0);
}
