//! A server that replies with errors: it is out of memory, a replica, busy, loading, or has no
//! connection left. Its denials are still used, no check is charged in part, and the store uses it
//! again once the errors stop.

#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;

use std::error::Error;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis_limiter::{
    LONG_DEADLINE, alice, check, combined_limits, counted, counted_for, limiter,
    wait_until_breaker_opens, wait_until_store_decides,
};
use servers::{Proxy, Server, TIMEOUT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tollgate::{Check, Identity, Limiter, RedisStore, Store, StoreError, StoreErrorKind};

/// Returns a limiter without a breaker, which calls the store for every check.
fn limiter_without_breaker(server: &Server) -> Limiter {
    let store = RedisStore::new(&server.url()).unwrap();
    let limiter = Limiter::builder(store).deadline(LONG_DEADLINE);
    limiter.failures_to_open(NonZeroU32::MAX).build()
}

/// Returns the text of an error and of its cause.
fn full_text(error: &StoreError) -> String {
    format!("{error}: {}", error.source().expect("there is a cause"))
}

/// A command that makes the server refuse writes, the code of its errors, and the command that ends
/// it.
const REFUSALS: [(&[&str], &str, &[&str]); 3] = [
    (
        &["CONFIG", "SET", "maxmemory", "1"],
        "OOM",
        &["CONFIG", "SET", "maxmemory", "0"],
    ),
    (
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        "NOREPLICAS",
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
    ),
    (
        &["REPLICAOF", "127.0.0.1", "1"],
        "READONLY",
        &["REPLICAOF", "NO", "ONE"],
    ),
];

#[tokio::test]
async fn read_only_server_denies_and_charges_nothing_in_part() {
    let server = Server::start().await;
    let limits = combined_limits(2);
    let bob = Identity::user("bob");
    for (refuse_writes, code, accept_writes) in REFUSALS {
        let before = limiter_without_breaker(&server);
        for _ in 0..2 {
            assert!(check(&before, &limits).await.is_allowed());
        }
        server.command(refuse_writes).await;

        // New stores, which have no cached denial.
        let (limiter, store) = (
            limiter_without_breaker(&server),
            RedisStore::new(&server.url()).unwrap(),
        );
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_allowed() && !decision.is_degraded(), "{code}");
        let decision = limiter.check(&Check::new(&bob, &limits)).await;
        assert!(decision.is_allowed() && decision.is_degraded(), "{code}");
        // One batch, since the checks are made at once.
        let checks =
            [&bob, &alice(), &bob].map(|user| store.check(&Check::new(user, &limits)).wait());
        let [first, denied, third] = join_all(checks).await.try_into().unwrap();
        assert!(!denied.unwrap().is_allowed(), "{code}");
        for refused in [first, third] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Rejected);
            assert!(full_text(&error).contains(code), "{}", full_text(&error));
        }
        let keys = server.keys().await;
        assert_eq!(keys.len(), 3, "{code}: {keys:?}");
        assert!(!keys.iter().any(|key| key.contains("bob")), "{keys:?}");

        server.command(accept_writes).await;
        // Both the denial by the store and the admissions by the fallback hold.
        assert!(!check(&limiter, &limits).await.is_allowed(), "{code}");
        let decision = limiter.check(&Check::new(&bob, &limits)).await;
        assert!(decision.is_allowed() && !decision.is_degraded(), "{code}");
        assert_eq!(counted_for(&server, &bob, &limits).await, [2; 3], "{code}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn read_only_server_keeps_the_breaker_open() {
    let server = Server::start().await;
    let limits = combined_limits(100);
    for (refuse_writes, code, accept_writes) in REFUSALS {
        let limiter = limiter(&server.url(), LONG_DEADLINE);
        assert!(!check(&limiter, &limits).await.is_degraded());
        server.command(refuse_writes).await;
        wait_until_breaker_opens(&limiter).await;
        for _ in 0..4 {
            assert!(check(&limiter, &limits).await.is_degraded(), "{code}");
        }
        // Probes write, so they fail too.
        sleep(Duration::from_millis(1_500)).await;
        assert!(check(&limiter, &limits).await.is_degraded(), "{code}");
        server.command(accept_writes).await;
        wait_until_store_decides(&limiter).await;
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded(), "{code}");
        assert_eq!(counted(&server, &limits).await, [7; 3], "{code}");
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_attempts_to_a_replica_are_limited() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let limits = combined_limits(1);
    let denied = Check::new(&alice(), &limits).into_owned();
    store.check(&denied.borrow()).wait().await.unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    server.reset_stats().await;
    // There is no breaker here, since the denials would keep it closed.
    let (mut refused, end) = (0, Instant::now() + Duration::from_secs(2));
    while Instant::now() < end {
        let bob = Identity::user(&refused.to_string());
        let answer = store.check(&Check::new(&bob, &limits)).wait().await;
        refused += 1;
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Rejected);
        let peek = store.check(&denied.borrow().cost(0)).wait().await;
        peek.unwrap();
    }
    let connections = server
        .statistic("stats", "total_connections_received:")
        .await;
    let connections = connections.expect("INFO has it");
    assert!(
        (1..=10).contains(&connections),
        "{connections} connections for {refused} checks"
    );
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_blocked_by_a_script_opens_the_breaker() {
    let server = Server::start_with(&["--lua-time-limit", "10"]).await;
    let limits = combined_limits(100);
    let limiter = limiter(&server.url(), LONG_DEADLINE);
    assert!(!check(&limiter, &limits).await.is_degraded());
    let mut script = Box::pin(server.try_command(&["EVAL", "while true do end", "0"]));
    let busy = async {
        wait_until_breaker_opens(&limiter).await;
        for _ in 0..4 {
            assert!(check(&limiter, &limits).await.is_degraded());
        }
        server.command(&["SCRIPT", "KILL"]).await;
    };
    let (killed, ()) = tokio::join!(&mut script, busy);
    killed.unwrap_err();
    wait_until_store_decides(&limiter).await;
    assert!(!check(&limiter, &limits).await.is_degraded());
    assert_eq!(counted(&server, &limits).await, [6; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_server_opens_the_breaker() {
    let server = Server::start().await;
    let limits = combined_limits(100);
    let limiter = limiter(&server.url(), LONG_DEADLINE);
    assert!(!check(&limiter, &limits).await.is_degraded());
    // Make the server load slowly and reply LOADING meanwhile.
    server
        .command(&["DEBUG", "POPULATE", "1000", "filler", "1024"])
        .await;
    for [option, value] in [
        ["key-load-delay", "2000"],
        ["loading-process-events-interval-bytes", "1024"],
    ] {
        if let Err(error) = server.try_command(&["CONFIG", "SET", option, value]).await {
            servers::skip(&format!("a server that loads slowly: {error}"));
            return;
        }
    }
    let reload = server.command(&["DEBUG", "RELOAD"]);
    let load = async {
        wait_until_breaker_opens(&limiter).await;
        for _ in 0..4 {
            assert!(check(&limiter, &limits).await.is_degraded());
        }
    };
    tokio::join!(reload, load);
    wait_until_store_decides(&limiter).await;
    assert!(!check(&limiter, &limits).await.is_degraded());
    assert_eq!(counted(&server, &limits).await, [6; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_at_maxclients_is_used_once_it_has_room() {
    let server = Server::start_with(&["--maxclients", "5"]).await;
    let mut others = Vec::new();
    loop {
        let mut other = TcpStream::connect(server.address()).await.unwrap();
        other.write_all(b"PING\r\n").await.unwrap();
        let mut answer = [0; 7];
        // The connection above the limit gets an error.
        other.read_exact(&mut answer).await.unwrap();
        if &answer != b"+PONG\r\n" {
            break;
        }
        others.push(other);
    }
    let limits = combined_limits(10);
    let limiter = limiter(&server.url(), LONG_DEADLINE);
    let ping = RedisStore::new(&server.url()).unwrap().ping().await;
    let error = ping.unwrap_err();
    let kinds = [StoreErrorKind::Rejected, StoreErrorKind::Unavailable];
    assert!(kinds.contains(&error.kind()), "{}", full_text(&error));
    let decision = timeout(TIMEOUT, check(&limiter, &limits)).await.unwrap();
    assert!(decision.is_allowed() && decision.is_degraded());
    wait_until_breaker_opens(&limiter).await;

    others.clear();
    wait_until_store_decides(&limiter).await;
    assert_eq!(check(&limiter, &limits).await.remaining(), 8);
    assert_eq!(counted(&server, &limits).await, [2; 3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn former_primary_is_reconnected_once() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let limits = combined_limits(10);
    let limiter = limiter(&proxy.url(), LONG_DEADLINE);
    assert!(check(&limiter, &limits).await.is_allowed());
    assert_eq!(proxy.connections(), 1);
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let decision = check(&limiter, &limits).await;
    assert!(decision.is_allowed() && decision.is_degraded());
    // The address may lead to another server by now, so the store connects again.
    assert_eq!(proxy.connections(), 2, "it connects again once");
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    let decision = check(&limiter, &limits).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 7);
    assert_eq!(counted(&server, &limits).await, [3; 3]);
}
