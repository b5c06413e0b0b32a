//! The limiter works without a server that is gone and uses it again as soon as it is back: after
//! the server was killed, started later than the application, lost its scripts or closed the
//! connection.

#[path = "support/load.rs"]
mod load;
#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;
mod support;

use std::time::{Duration, Instant};

use http::StatusCode;
use load::Load;
use redis_limiter::{
    LONG_DEADLINE, SHORT_DEADLINE, alice, check, counted, counted_for, high_limits, limiter,
    quotas, wait_until_breaker_opens, wait_until_store_decides,
};
use servers::{Proxy, Server, Wait};
use support::{header, request, send};
use tokio::runtime::Runtime;
use tollgate::{Check, Identity, Limiter, Limits, Quota, RateLimitLayer, RedisStore, Store};

/// Sends requests of `users` users. The status of each response must be 200 or 429.
fn send_requests(layer: &RateLimitLayer, users: usize) -> Load<()> {
    let mut load = Load::new();
    for user in 0..users {
        let layer = layer.clone();
        load.spawn(|running| async move {
            while running.get() {
                let status = send(&layer, request(&user.to_string())).await.status();
                let expected = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
                assert!(expected.contains(&status), "{status}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_holds_across_a_restart_without_data() {
    let server = Server::start().await;
    for quota in quotas(20) {
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), LONG_DEADLINE));
        let layer = RateLimitLayer::new(quota, limiter.clone());
        let load = send_requests(&layer, 10);
        for _ in 0..12 {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_allowed() && !decision.is_degraded());
        }
        server.kill();
        wait_until_breaker_opens(&limiter).await;
        for left in [7, 6, 5] {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{quota}");
        }
        server.restart().await;
        wait_until_store_decides(&limiter).await;
        for left in [4, 3, 2, 1, 0] {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_allowed() && !decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{quota}");
        }
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_allowed() && !decision.is_degraded());
        load.stop().await;
        assert_eq!(counted(&server, &limits).await, [20], "{quota}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn application_may_start_before_its_server() {
    let server = Server::start().await;
    server.kill();
    let limiter = limiter(&server.url(), LONG_DEADLINE);
    let quota = Quota::per_day(10);
    let layer = RateLimitLayer::new(quota, limiter.clone());
    for _ in 0..6 {
        let response = send(&layer, request("alice")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
    }
    server.restart().await;
    wait_until_store_decides(&limiter).await;
    let response = send(&layer, request("alice")).await;
    assert_eq!(header(&response, "x-ratelimit-degraded"), None);
    assert_eq!(header(&response, "x-ratelimit-remaining"), Some("3"));
    assert_eq!(counted(&server, &quota.into()).await, [7]);
}

#[tokio::test]
async fn flushed_script_is_sent_once() {
    let server = Server::start().await;
    let (limits, limiter) = (
        Limits::from(Quota::per_day(100)),
        limiter(&server.url(), LONG_DEADLINE),
    );
    check(&limiter, &limits).await;
    for mode in ["SYNC", "ASYNC"] {
        server.reset_stats().await;
        server.command(&["SCRIPT", "FLUSH", mode]).await;
        let checks = (0..10).map(|_| check(&limiter, &limits));
        for decision in futures_util::future::join_all(checks).await {
            assert!(decision.is_allowed() && !decision.is_degraded());
        }
        check(&limiter, &limits).await;
        assert_eq!(server.calls("eval").await, 1, "{mode}");
    }
    assert_eq!(counted(&server, &limits).await, [23]);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_script_flushes_degrade_no_check() {
    const FLUSHES: u64 = 50;
    let server = Server::start().await;
    let (limits, limiter) = (high_limits(), limiter(&server.url(), LONG_DEADLINE));
    wait_until_store_decides(&limiter).await;
    server.reset_stats().await;
    let mut load = Load::new();
    for task in 0..16 {
        let (limiter, limits) = (limiter.clone(), limits.clone());
        load.spawn(move |running| async move {
            let user = Identity::user(["alice", "bob"][task % 2]);
            let mut admitted = [0, 0];
            while running.get() {
                let decision = limiter.check(&Check::new(&user, &limits)).await;
                assert!(decision.is_allowed() && !decision.is_degraded());
                admitted[task % 2] += 1;
            }
            admitted
        });
    }
    for _ in 0..FLUSHES {
        server.command(&["SCRIPT", "FLUSH"]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let admitted = load.stop().await;
    let admitted = [0, 1].map(|user| admitted.iter().map(|task| task[user]).sum::<u32>());
    let evals = server.calls("eval").await;
    assert!(
        (1..=FLUSHES).contains(&evals),
        "{evals} EVALs for {FLUSHES} flushes"
    );
    assert_eq!(counted(&server, &limits).await, [admitted[0]]);
    let bob = Identity::user("bob");
    assert_eq!(counted_for(&server, &bob, &limits).await, [admitted[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connection_is_replaced() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let limits = Limits::from(Quota::per_day(100));
    let limiter = limiter(&proxy.url(), SHORT_DEADLINE);
    wait_until_store_decides(&limiter).await;
    let mut admitted = u32::from(check(&limiter, &limits).await.is_allowed());

    let connections = proxy.connections();
    proxy.drop_bytes();
    let wait = Wait::until("the store connects again");
    while proxy.connections() == connections {
        let decision = check(&limiter, &limits).await;
        assert!(decision.is_allowed() && decision.is_degraded());
        admitted += 1;
        wait.sleep().await;
    }
    // Open connections stay half open, so the store must use the new one.
    proxy.forward();
    wait_until_store_decides(&limiter).await;
    check(&limiter, &limits).await;
    assert_eq!(counted(&server, &limits).await, [admitted + 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_ping_does_not_block_later_checks() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    let limiter = Limiter::builder(store.clone())
        .deadline(SHORT_DEADLINE)
        .build();
    wait_until_store_decides(&limiter).await;

    proxy.drop_bytes();
    store.ping().await.unwrap_err();
    // The old connection stays half open: checks must not queue behind the lost PING.
    proxy.forward();
    wait_until_store_decides(&limiter).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_attempts_are_limited_while_server_refuses() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    proxy.refuse_connections();
    proxy.close_connections();
    let limits = high_limits();

    // Without a breaker, which would suppress nearly all attempts.
    let before = proxy.connections();
    let (mut failed, end) = (0, Instant::now() + Duration::from_secs(2));
    while Instant::now() < end {
        let checks = (0..10).map(|_| store.check(&Check::new(&alice(), &limits)).wait());
        for answer in futures_util::future::join_all(checks).await {
            failed += usize::from(answer.is_err());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let attempts = proxy.connections() - before;
    assert!(failed > 1_000, "too little load: {failed} failed checks");
    assert!(
        (1..=25).contains(&attempts),
        "{attempts} connections for {failed} failed checks"
    );

    // With a breaker, whose probes also connect.
    let limiter = Limiter::from(store);
    let before = proxy.connections();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(check(&limiter, &limits).await.is_degraded());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let attempts = proxy.connections() - before;
    assert!((1..=25).contains(&attempts), "{attempts} connections");

    proxy.forward();
    wait_until_store_decides(&limiter).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn closed_idle_connection_degrades_no_check() {
    let server = Server::start().await;
    let limiter = limiter(&server.url(), LONG_DEADLINE);
    let limits = Limits::from(Quota::per_day(100));
    for round in 0..5 {
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded(), "round {round}");
        match round % 2 {
            0 => drop(server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await),
            _ => server.restart().await,
        }
        // During this round trip the end of the connection arrives.
        server.command(&["PING"]).await;
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded(), "round {round}");
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// As in the tests of an application, each of which has a runtime of its own.
#[test]
fn connection_of_an_ended_runtime_degrades_no_check() {
    let runtime = || Runtime::new().unwrap();
    let outside = runtime();
    let server = outside.block_on(Server::start());
    let (limits, limiter) = (high_limits(), limiter(&server.url(), LONG_DEADLINE));
    for round in 0..5 {
        let decision = runtime().block_on(check(&limiter, &limits));
        assert!(!decision.is_degraded(), "round {round}");
    }
    assert_eq!(outside.block_on(counted(&server, &limits)), [5]);
}
