//! A server that is gone is done without, and one that is there again is used again, by itself:
//! whether it was killed, came later than the application, forgot its scripts, or closed the
//! connection.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use outage::{
    LONG, SHORT, alice, check, counted, counted_of, far, limiter, quotas, until_alone, until_shared,
};
use servers::{Proxy, Server, Wait};
use support::{header, request, send};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tollgate::{Check, Identity, Limiter, Limits, Quota, RateLimitLayer, RedisStore, Store};

/// Sends requests of so many users without end, until told to stop. They must be answered with
/// 200 or 429.
fn load(layer: &RateLimitLayer, users: usize) -> impl AsyncFnOnce() {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for user in 0..users {
        let (layer, stop) = (layer.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let status = send(&layer, request(&user.to_string())).await.status();
                let known = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
                assert!(known.contains(&status), "{status}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    async move || {
        stop.store(true, Ordering::Relaxed);
        tasks.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_before_and_after_a_server_that_comes_back_empty() {
    let server = Server::start().await;
    for quota in quotas(20) {
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), LONG));
        let layer = RateLimitLayer::new(quota, limiter.clone());
        let stop = load(&layer, 10);
        for _ in 0..12 {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_allowed() && !decision.is_degraded());
        }
        server.kill();
        until_alone(&limiter).await;
        for left in [7, 6, 5] {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{quota}");
        }
        server.restart().await;
        until_shared(&limiter).await;
        for left in [4, 3, 2, 1, 0] {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_allowed() && !decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{quota}");
        }
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_allowed() && !decision.is_degraded());
        stop().await;
        assert_eq!(counted(&server, &limits).await, [20], "{quota}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_may_start_before_its_server() {
    let server = Server::start().await;
    server.kill();
    let limiter = limiter(&server.url(), LONG);
    let quota = Quota::per_day(10);
    let layer = RateLimitLayer::new(quota, limiter.clone());
    for _ in 0..6 {
        let response = send(&layer, request("alice")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
    }
    server.restart().await;
    until_shared(&limiter).await;
    let response = send(&layer, request("alice")).await;
    assert_eq!(header(&response, "x-ratelimit-degraded"), None);
    assert_eq!(header(&response, "x-ratelimit-remaining"), Some("3"));
    assert_eq!(counted(&server, &quota.into()).await, [7]);
}

#[tokio::test]
async fn a_server_that_forgot_its_scripts_is_told_the_script_once() {
    let server = Server::start().await;
    let (limits, limiter) = (
        Limits::from(Quota::per_day(100)),
        limiter(&server.url(), LONG),
    );
    check(&limiter, &limits).await;
    for kind in ["SYNC", "ASYNC"] {
        server.reset_stats().await;
        server.command(&["SCRIPT", "FLUSH", kind]).await;
        let checks = (0..10).map(|_| check(&limiter, &limits));
        for decision in futures_util::future::join_all(checks).await {
            assert!(decision.is_allowed() && !decision.is_degraded());
        }
        check(&limiter, &limits).await;
        assert_eq!(server.calls("eval").await, 1, "{kind}");
    }
    assert_eq!(counted(&server, &limits).await, [23]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_forgetting_its_scripts_is_noticed_by_nobody() {
    const FLUSHES: u64 = 50;
    let server = Server::start().await;
    let (limits, limiter) = (far(), limiter(&server.url(), LONG));
    until_shared(&limiter).await;
    server.reset_stats().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for task in 0..16 {
        let (limiter, limits, stop) = (limiter.clone(), limits.clone(), stop.clone());
        load.spawn(async move {
            // Alice's are many at once, the others' go along.
            let who = Identity::user(if task % 2 == 0 { "alice" } else { "bob" });
            let mut admitted = [0, 0];
            while !stop.load(Ordering::Relaxed) {
                let decision = limiter.check(&Check::new(&who, &limits)).await;
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
    stop.store(true, Ordering::Relaxed);
    let admitted = load.join_all().await;
    let admitted = [0, 1].map(|who| admitted.iter().map(|some| some[who]).sum::<u32>());
    let evals = server.calls("eval").await;
    assert!((1..=FLUSHES).contains(&evals), "{evals} for {FLUSHES}");
    assert_eq!(counted(&server, &limits).await, [admitted[0]]);
    let bob = Identity::user("bob");
    assert_eq!(counted_of(&server, &bob, &limits).await, [admitted[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_other_end_is_gone_without_a_word_is_replaced() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let limits = Limits::from(Quota::per_day(100));
    let limiter = limiter(&proxy.url(), SHORT);
    until_shared(&limiter).await;
    let mut admitted = u32::from(check(&limiter, &limits).await.is_allowed());

    let connections = proxy.connections();
    proxy.drop_bytes();
    let wait = Wait::until("another connection is tried");
    while proxy.connections() == connections {
        let decision = check(&limiter, &limits).await;
        assert!(decision.is_allowed() && decision.is_degraded());
        admitted += 1;
        wait.on().await;
    }
    // Those that have lost bytes stay as they are.
    proxy.pass();
    until_shared(&limiter).await;
    check(&limiter, &limits).await;
    assert_eq!(counted(&server, &limits).await, [admitted + 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_that_is_never_answered_does_not_keep_checks_waiting_behind_it() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    let limiter = Limiter::builder(store.clone()).deadline(SHORT).build();
    until_shared(&limiter).await;

    proxy.drop_bytes();
    store.ping().await.unwrap_err();
    // What was lost is lost, and nobody waits for it.
    proxy.pass();
    until_shared(&limiter).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_connections_is_not_stormed() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    proxy.refuse();
    proxy.cut();
    let limits = far();

    // Without a breaker, which would spare the server nearly all of it.
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
    assert!(failed > 1_000, "there was little load: {failed}");
    assert!((1..=25).contains(&attempts), "{attempts} for {failed}");

    // With one, whose probes come on top.
    let limiter = Limiter::from(store);
    let before = proxy.connections();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(check(&limiter, &limits).await.is_degraded());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let attempts = proxy.connections() - before;
    assert!((1..=25).contains(&attempts), "{attempts}");

    proxy.pass();
    until_shared(&limiter).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn the_end_of_an_idle_connection_is_noticed_before_it_is_used() {
    let server = Server::start().await;
    let limiter = limiter(&server.url(), LONG);
    let limits = Limits::from(Quota::per_day(100));
    for round in 0..5 {
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded(), "round {round}");
        match round % 2 {
            0 => drop(server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await),
            _ => server.restart().await,
        }
        // The news is on its way, and this goes the same way.
        server.command(&["PING"]).await;
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded(), "round {round}");
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// Such as each test of an application has.
#[test]
fn the_end_of_a_runtime_is_noticed_before_its_connection_is_used() {
    let runtime = || Runtime::new().unwrap();
    let outside = runtime();
    let server = outside.block_on(Server::start());
    let (limits, limiter) = (far(), limiter(&server.url(), LONG));
    for round in 0..5 {
        let decision = runtime().block_on(check(&limiter, &limits));
        assert!(!decision.is_degraded(), "round {round}");
    }
    assert_eq!(outside.block_on(counted(&server, &limits)), [5]);
}
