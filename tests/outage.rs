//! A server that is there, but does not answer, holds nobody up: every request is answered, as the
//! failure strategy says, and when the server goes on, so does the shared limit, by itself.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;
mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;
use outage::{
    LONG, SHORT, alice, check, counted, limiter, look, quotas, until_alone, until_shared,
};
use servers::{PATIENCE, Server, Wait};
use support::{header, request, send};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tollgate::{
    Check, FailureStrategy, Identity, Limiter, Limits, OwnedCheck, Quota, RateLimitLayer,
    RedisStore, Store, StoreErrorKind,
};

/// Whether a request of Alice's is let through, and whether the store had no part in it.
async fn asked(layer: &RateLimitLayer) -> (bool, bool) {
    let response = send(layer, request("alice")).await;
    let degraded = header(&response, "x-ratelimit-degraded");
    assert!([None, Some("true")].contains(&degraded), "{degraded:?}");
    let status = response.status();
    let known = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
    assert!(known.contains(&status), "{status}");
    (status == StatusCode::OK, degraded.is_some())
}

/// How many more requests of Alice's are let through, until one is not.
async fn exhaust(layer: &RateLimitLayer) -> u32 {
    let mut admitted = 0;
    while asked(layer).await.0 {
        admitted += 1;
    }
    admitted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_holds_nobody_up_and_the_limit_holds_through_it() {
    let server = Server::start().await;
    for quota in quotas(300) {
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), SHORT));
        let layer = RateLimitLayer::new(quota, limiter.clone());
        until_shared(&limiter).await;
        for _ in 0..50 {
            assert!(asked(&layer).await.0);
        }

        server.pause();
        let mut under_way = JoinSet::new();
        for _ in 0..200 {
            let layer = layer.clone();
            under_way.spawn(async move { asked(&layer).await });
        }
        let answers = timeout(PATIENCE, under_way.join_all()).await;
        let answers = answers.expect("none hangs");
        assert_eq!(answers, [(true, true); 200], "{quota}");
        until_alone(&limiter).await;
        assert_eq!(asked(&layer).await, (true, true), "{quota}");

        server.resume();
        until_shared(&limiter).await;
        // What was sent to the server while it stood still came too late, and 251 is not 451.
        assert_eq!(look(&limiter, &limits).await.remaining(), 49, "{quota}");
        assert_eq!(exhaust(&layer).await, 49, "{quota}");
        assert_eq!(counted(&server, &limits).await, [300], "{quota}");
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_less_than_the_deadline_is_waited_for() {
    let server = Server::start().await;
    let limits = Limits::from(Quota::per_day(60));
    let limiter = limiter(&server.url(), LONG);
    until_shared(&limiter).await;
    server.pause();
    let mut under_way = JoinSet::new();
    for _ in 0..100 {
        let (limiter, limits) = (limiter.clone(), limits.clone());
        under_way.spawn(async move {
            let decision = check(&limiter, &limits).await;
            assert!(!decision.is_degraded());
            decision.is_allowed()
        });
    }
    tokio::time::sleep(2 * SHORT).await;
    server.resume();
    let answers = under_way.join_all().await;
    let admitted = answers.into_iter().filter(|allowed| *allowed).count();
    assert_eq!(admitted, 60);
    assert_eq!(counted(&server, &limits).await, [60]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hesitates_is_waited_for_by_nobody_and_counts_on() {
    let server = Server::start().await;
    for hesitation in [&["CLIENT", "PAUSE", "1500"][..], &["DEBUG", "SLEEP", "1.5"]] {
        let quota = Quota::per_day(100);
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), SHORT));
        let layer = RateLimitLayer::new(quota, limiter.clone());
        until_shared(&limiter).await;
        for _ in 0..10 {
            assert!(asked(&layer).await.0);
        }

        let mut admitted = 10;
        let pause = server.command(hesitation);
        let load = async {
            let wait = Wait::until("it is noticed");
            while !asked(&layer).await.1 {
                admitted += 1;
                wait.on().await;
            }
            until_alone(&limiter).await;
            assert_eq!(asked(&layer).await, (true, true));
            admitted += 2;
        };
        tokio::join!(pause, load);
        until_shared(&limiter).await;
        let left = 100 - admitted;
        assert_eq!(exhaust(&layer).await, left, "{hesitation:?}");
        assert_eq!(counted(&server, &limits).await, [100], "{hesitation:?}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_and_goes_on_under_load_is_never_counted_twice() {
    const LIMIT: u32 = 2_000;
    const TASKS: u32 = 16;
    let server = Server::start().await;
    for quota in quotas(LIMIT) {
        let limits = Limits::from(quota);
        let limiter = limiter(&server.url(), SHORT);
        until_shared(&limiter).await;
        let mut load = JoinSet::new();
        for _ in 0..TASKS {
            let (limiter, limits) = (limiter.clone(), limits.clone());
            load.spawn(async move {
                let mut admitted = 0;
                for _ in 0..100 {
                    admitted += u32::from(check(&limiter, &limits).await.is_allowed());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                admitted
            });
        }
        for _ in 0..3 {
            server.pause();
            until_alone(&limiter).await;
            server.resume();
            until_shared(&limiter).await;
        }
        let admitted: u32 = load.join_all().await.into_iter().sum();
        assert_eq!(admitted, 100 * TASKS, "nobody was near the limit");
        until_shared(&limiter).await;
        look(&limiter, &limits).await;
        let [counted] = counted(&server, &limits).await[..] else {
            panic!("there is one policy");
        };
        // What the fallback and the server counted at the same moment is joined and not added, so
        // a few may be missing each time that it stopped or went on.
        assert!(
            (admitted * 3 / 4..=admitted).contains(&counted),
            "{quota}: {admitted} were admitted, {counted} counted"
        );
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_strategy_answers_as_it_says_and_what_is_exempt_is_not_touched() {
    let server = Server::start().await;
    let limiter = limiter(&server.url(), SHORT);
    let open = RateLimitLayer::new(Quota::per_day(3), limiter.clone())
        .skip(|parts| parts.uri.path() == "/health");
    let unlimited = open
        .clone()
        .failure_strategy(FailureStrategy::OpenUnlimited);
    let closed = open.clone().failure_strategy(FailureStrategy::Closed);
    until_shared(&limiter).await;
    server.pause();

    // First those that wait in vain, and then those that do not wait.
    for _ in 0..2 {
        for _ in 0..5 {
            assert_eq!(asked(&unlimited).await, (true, true));
        }
        let refused = send(&closed, request("alice")).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(&refused, "x-ratelimit-degraded"), Some("true"));
        assert_eq!(header(&refused, "retry-after"), Some("1"));
        for layer in [&open, &unlimited, &closed] {
            let mut health = request("alice");
            *health.uri_mut() = "/health".parse().unwrap();
            let response = send(layer, health).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers().len(), 0, "{:?}", response.headers());
        }
        until_alone(&limiter).await;
    }
    assert_eq!(exhaust(&open).await, 3, "the others have counted nothing");
    assert_eq!(asked(&open).await, (false, true));

    server.resume();
    until_shared(&limiter).await;
    for layer in [&open, &unlimited, &closed] {
        let wait = Wait::until("the store denies");
        while asked(layer).await != (false, false) {
            wait.on().await;
        }
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_that_nobody_answers_do_not_pile_up() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url()).longest_queue(100);
    let store = store.build().unwrap();
    // The breaker would spare the store most of it.
    let limiter = Limiter::builder(store.clone())
        .deadline(SHORT)
        .failures_to_open(NonZeroU32::MAX)
        .build();
    until_shared(&limiter).await;
    server.pause();
    let limits = Limits::from(Quota::per_day(10));
    for round in 0..3 {
        let mut checks = JoinSet::new();
        for index in 0..2_000 {
            let (limiter, limits) = (limiter.clone(), limits.clone());
            checks.spawn(async move {
                let identity = Identity::user(&format!("{round} {index}"));
                let decision = limiter.check(&Check::new(&identity, &limits)).await;
                decision.is_allowed() && decision.is_degraded()
            });
        }
        let answers = timeout(PATIENCE, checks.join_all()).await;
        let answers = answers.expect("none hangs");
        assert!(answers.into_iter().all(|degraded| degraded));
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    assert!(tasks <= 10, "{tasks} tasks are left of 6,000 checks");

    // The queue has room for 100, whoever they were, and who comes when it is full need not wait.
    let mut overloaded = 0;
    let checks = (0..1_000).map(|index| {
        let identity = Identity::user(&index.to_string());
        let mut check = Check::new(&identity, &limits);
        check.time_left = SHORT;
        let check: OwnedCheck = check.into_owned();
        store.check(&check.borrow()).wait()
    });
    for check in futures_util::future::join_all(checks).await {
        overloaded += usize::from(check.unwrap_err().kind() == StoreErrorKind::Overloaded);
    }
    assert!(overloaded >= 800, "{overloaded} of 1,000");

    server.resume();
    until_shared(&limiter).await;
    let limits = Limits::from(Quota::per_day(1));
    let wait = Wait::until("the store decides");
    while look(&limiter, &limits).await.is_degraded() {
        wait.on().await;
    }
    let verdict = outage::ask(&server, &Check::new(&alice(), &limits)).await;
    assert!(verdict.is_allowed(), "nothing that was given up has run");
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}
