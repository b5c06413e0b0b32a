//! While a server accepts connections but does not reply, every request is answered within the
//! deadline, as the failure strategy says. The shared limit applies again once the server replies.

#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;
mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;
use redis_limiter::{
    LONG_DEADLINE, SHORT_DEADLINE, alice, check, counted, limiter, peek, quotas,
    wait_until_breaker_opens, wait_until_store_decides,
};
use servers::{Server, TIMEOUT, Wait};
use support::{header, request, send};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tollgate::store::OwnedCheck;
use tollgate::{
    Check, FailureStrategy, Identity, Limiter, Limits, Quota, RateLimitLayer, RedisStore, Store,
    StoreErrorKind,
};

/// Sends a request of `alice`. Returns whether it was allowed, and whether the decision was
/// degraded.
async fn send_request(layer: &RateLimitLayer) -> (bool, bool) {
    let response = send(layer, request("alice")).await;
    let degraded = header(&response, "x-ratelimit-degraded");
    assert!([None, Some("true")].contains(&degraded), "{degraded:?}");
    let status = response.status();
    let expected = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
    assert!(expected.contains(&status), "{status}");
    (status == StatusCode::OK, degraded.is_some())
}

/// Sends requests of `alice` until one is denied, and returns how many were allowed.
async fn exhaust(layer: &RateLimitLayer) -> u32 {
    let mut admitted = 0;
    while send_request(layer).await.0 {
        admitted += 1;
    }
    admitted
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_holds_while_the_server_is_paused() {
    let server = Server::start().await;
    for quota in quotas(300) {
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), SHORT_DEADLINE));
        let layer = RateLimitLayer::new(quota, limiter.clone());
        wait_until_store_decides(&limiter).await;
        for _ in 0..50 {
            assert!(send_request(&layer).await.0);
        }

        server.pause();
        let mut in_flight = JoinSet::new();
        for _ in 0..200 {
            let layer = layer.clone();
            in_flight.spawn(async move { send_request(&layer).await });
        }
        let answers = timeout(TIMEOUT, in_flight.join_all()).await;
        let answers = answers.expect("no check hangs");
        assert_eq!(answers, [(true, true); 200], "{quota}");
        wait_until_breaker_opens(&limiter).await;
        assert_eq!(send_request(&layer).await, (true, true), "{quota}");

        server.resume();
        wait_until_store_decides(&limiter).await;
        // The 200 checks sent to the paused server were too late to be charged a second time.
        assert_eq!(peek(&limiter, &limits).await.remaining(), 49, "{quota}");
        assert_eq!(exhaust(&layer).await, 49, "{quota}");
        assert_eq!(counted(&server, &limits).await, [300], "{quota}");
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_shorter_than_the_deadline_degrades_no_check() {
    let server = Server::start().await;
    let limits = Limits::from(Quota::per_day(60));
    let limiter = limiter(&server.url(), LONG_DEADLINE);
    wait_until_store_decides(&limiter).await;
    server.pause();
    let mut in_flight = JoinSet::new();
    for _ in 0..100 {
        let (limiter, limits) = (limiter.clone(), limits.clone());
        in_flight.spawn(async move {
            let decision = check(&limiter, &limits).await;
            assert!(!decision.is_degraded());
            decision.is_allowed()
        });
    }
    tokio::time::sleep(2 * SHORT_DEADLINE).await;
    server.resume();
    let answers = in_flight.join_all().await;
    let admitted = answers.into_iter().filter(|allowed| *allowed).count();
    assert_eq!(admitted, 60);
    assert_eq!(counted(&server, &limits).await, [60]);
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_holds_while_the_server_blocks_for_seconds() {
    let server = Server::start().await;
    for pause in [&["CLIENT", "PAUSE", "1500"][..], &["DEBUG", "SLEEP", "1.5"]] {
        let quota = Quota::per_day(100);
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), SHORT_DEADLINE));
        let layer = RateLimitLayer::new(quota, limiter.clone());
        wait_until_store_decides(&limiter).await;
        for _ in 0..10 {
            assert!(send_request(&layer).await.0);
        }

        let mut admitted = 10;
        let paused = server.command(pause);
        let requests = async {
            let wait = Wait::until("a request is degraded");
            while !send_request(&layer).await.1 {
                admitted += 1;
                wait.sleep().await;
            }
            wait_until_breaker_opens(&limiter).await;
            assert_eq!(send_request(&layer).await, (true, true));
            admitted += 2;
        };
        tokio::join!(paused, requests);
        wait_until_store_decides(&limiter).await;
        let left = 100 - admitted;
        assert_eq!(exhaust(&layer).await, left, "{pause:?}");
        assert_eq!(counted(&server, &limits).await, [100], "{pause:?}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_under_load_charge_no_check_twice() {
    const LIMIT: u32 = 2_000;
    const TASKS: u32 = 16;
    let server = Server::start().await;
    for quota in quotas(LIMIT) {
        let limits = Limits::from(quota);
        let limiter = limiter(&server.url(), SHORT_DEADLINE);
        wait_until_store_decides(&limiter).await;
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
            wait_until_breaker_opens(&limiter).await;
            server.resume();
            wait_until_store_decides(&limiter).await;
        }
        let admitted: u32 = load.join_all().await.into_iter().sum();
        assert_eq!(admitted, 100 * TASKS, "no check reaches the limit");
        wait_until_store_decides(&limiter).await;
        peek(&limiter, &limits).await;
        let [counted] = counted(&server, &limits).await[..] else {
            panic!("not one policy");
        };
        // Checks that the fallback and the server count at the same time are joined and not added,
        // so each pause may lose a few.
        assert!(
            (admitted * 3 / 4..=admitted).contains(&counted),
            "{quota}: {admitted} admitted, {counted} counted"
        );
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_strategy_answers_as_documented() {
    let server = Server::start().await;
    let limiter = limiter(&server.url(), SHORT_DEADLINE);
    let open = RateLimitLayer::new(Quota::per_day(3), limiter.clone())
        .skip(|parts| parts.uri.path() == "/health");
    let unlimited = open
        .clone()
        .failure_strategy(FailureStrategy::OpenUnlimited);
    let closed = open.clone().failure_strategy(FailureStrategy::Closed);
    wait_until_store_decides(&limiter).await;
    server.pause();

    // The breaker is closed in the first round and open in the second.
    for _ in 0..2 {
        for _ in 0..5 {
            assert_eq!(send_request(&unlimited).await, (true, true));
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
        wait_until_breaker_opens(&limiter).await;
    }
    assert_eq!(
        exhaust(&open).await,
        3,
        "`OpenUnlimited` and `Closed` count nothing"
    );
    assert_eq!(send_request(&open).await, (false, true));

    server.resume();
    wait_until_store_decides(&limiter).await;
    for layer in [&open, &unlimited, &closed] {
        let wait = Wait::until("the store denies");
        while send_request(layer).await != (false, false) {
            wait.sleep().await;
        }
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_checks_do_not_accumulate() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url()).max_queue(100);
    let store = store.build().unwrap();
    // A breaker would keep most checks from the store.
    let limiter = Limiter::builder(store.clone())
        .deadline(SHORT_DEADLINE)
        .failures_to_open(NonZeroU32::MAX)
        .build();
    wait_until_store_decides(&limiter).await;
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
        let answers = timeout(TIMEOUT, checks.join_all()).await;
        let answers = answers.expect("no check hangs");
        assert!(answers.into_iter().all(|degraded| degraded));
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    assert!(tasks <= 10, "{tasks} tasks remain of 6,000 checks");

    // The queue still holds at most 100 checks, and a check that finds it full fails at once.
    let mut overloaded = 0;
    let checks = (0..1_000).map(|index| {
        let identity = Identity::user(&index.to_string());
        let mut check = Check::new(&identity, &limits);
        check.time_left = SHORT_DEADLINE;
        let check: OwnedCheck = check.into_owned();
        store.check(&check.borrow()).wait()
    });
    for check in futures_util::future::join_all(checks).await {
        overloaded += usize::from(check.unwrap_err().kind() == StoreErrorKind::Overloaded);
    }
    assert!(
        overloaded >= 800,
        "{overloaded} of 1,000 checks were refused"
    );

    server.resume();
    wait_until_store_decides(&limiter).await;
    let limits = Limits::from(Quota::per_day(1));
    let wait = Wait::until("the store decides");
    while peek(&limiter, &limits).await.is_degraded() {
        wait.sleep().await;
    }
    let verdict = redis_limiter::check_in_new_store(&server, &Check::new(&alice(), &limits)).await;
    assert!(verdict.is_allowed(), "an abandoned check has run");
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}
