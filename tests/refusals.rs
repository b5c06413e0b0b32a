//! A server that answers, but will not do what it is asked: it is full, a replica, busy, or cannot
//! take one connection more. What it can still say counts, nothing is done by half, and when it
//! will again, it is asked again.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;

use std::error::Error;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use outage::{
    LONG, alice, check, counted, counted_of, limiter, together, until_alone, until_shared,
};
use servers::{PATIENCE, Proxy, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tollgate::{Check, Identity, Limiter, RedisStore, Store, StoreError, StoreErrorKind};

/// A limiter that asks the store every time.
fn persistent(server: &Server) -> Limiter {
    let store = RedisStore::new(&server.url()).unwrap();
    let limiter = Limiter::builder(store).deadline(LONG);
    limiter.failures_to_open(NonZeroU32::MAX).build()
}

/// What the error says, and what caused it.
fn story(error: &StoreError) -> String {
    format!("{error}: {}", error.source().expect("there is a cause"))
}

/// How the server is told to refuse writes, what it says then, and how it is told not to.
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
async fn a_server_that_takes_no_writes_still_denies_and_does_nothing_by_half() {
    let server = Server::start().await;
    let limits = together(2);
    let bob = Identity::user("bob");
    for (refuse, says, relent) in REFUSALS {
        let before = persistent(&server);
        for _ in 0..2 {
            assert!(check(&before, &limits).await.is_allowed());
        }
        server.command(refuse).await;

        // Others than denied her before, and remember.
        let (limiter, store) = (persistent(&server), RedisStore::new(&server.url()).unwrap());
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_allowed() && !decision.is_degraded(), "{says}");
        let decision = limiter.check(&Check::new(&bob, &limits)).await;
        assert!(decision.is_allowed() && decision.is_degraded(), "{says}");
        // In one call, since they are asked at once.
        let asked = [&bob, &alice(), &bob].map(|who| store.check(&Check::new(who, &limits)).wait());
        let [one, denied, other] = join_all(asked).await.try_into().unwrap();
        assert!(!denied.unwrap().is_allowed(), "{says}");
        for refused in [one, other] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Rejected);
            assert!(story(&error).contains(says), "{}", story(&error));
        }
        let keys = server.keys().await;
        assert_eq!(keys.len(), 3, "{says}: {keys:?}");
        assert!(!keys.iter().any(|key| key.contains("bob")), "{keys:?}");

        server.command(relent).await;
        // What was denied by the store and what was admitted here, both count.
        assert!(!check(&limiter, &limits).await.is_allowed(), "{says}");
        let decision = limiter.check(&Check::new(&bob, &limits)).await;
        assert!(decision.is_allowed() && !decision.is_degraded(), "{says}");
        assert_eq!(counted_of(&server, &bob, &limits).await, [2; 3], "{says}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_counts_as_away_until_it_does() {
    let server = Server::start().await;
    let limits = together(100);
    for (refuse, says, relent) in REFUSALS {
        let limiter = limiter(&server.url(), LONG);
        assert!(!check(&limiter, &limits).await.is_degraded());
        server.command(refuse).await;
        until_alone(&limiter).await;
        for _ in 0..4 {
            assert!(check(&limiter, &limits).await.is_degraded(), "{says}");
        }
        // No probe succeeds that does not write.
        sleep(Duration::from_millis(1_500)).await;
        assert!(check(&limiter, &limits).await.is_degraded(), "{says}");
        server.command(relent).await;
        until_shared(&limiter).await;
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded(), "{says}");
        assert_eq!(counted(&server, &limits).await, [7; 3], "{says}");
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_stormed_with_connections() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let limits = together(1);
    let denied = Check::new(&alice(), &limits).into_owned();
    store.check(&denied.borrow()).wait().await.unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    server.reset_stats().await;
    // The denials tell the breaker that all is well, so it would not help.
    let (mut refused, end) = (0, Instant::now() + Duration::from_secs(2));
    while Instant::now() < end {
        let bob = Identity::user(&refused.to_string());
        let answer = store.check(&Check::new(&bob, &limits)).wait().await;
        refused += 1;
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Rejected);
        let look = store.check(&denied.borrow().cost(0)).wait().await;
        look.unwrap();
    }
    let statistics: String = server.ask(&["INFO", "stats"]).await;
    let mut lines = statistics.lines();
    let made = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
    let made: u32 = made.unwrap().parse().unwrap();
    assert!(
        (1..=10).contains(&made),
        "{made} connections for {refused} checks"
    );
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_busy_with_somebody_elses_script_is_waited_for_by_nobody() {
    let server = Server::start_with(&["--lua-time-limit", "10"]).await;
    let limits = together(100);
    let limiter = limiter(&server.url(), LONG);
    assert!(!check(&limiter, &limits).await.is_degraded());
    let mut script = Box::pin(server.try_command(&["EVAL", "while true do end", "0"]));
    let busy = async {
        until_alone(&limiter).await;
        for _ in 0..4 {
            assert!(check(&limiter, &limits).await.is_degraded());
        }
        server.command(&["SCRIPT", "KILL"]).await;
    };
    let (killed, ()) = tokio::join!(&mut script, busy);
    killed.unwrap_err();
    until_shared(&limiter).await;
    assert!(!check(&limiter, &limits).await.is_degraded());
    assert_eq!(counted(&server, &limits).await, [6; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_still_loading_is_waited_for_by_nobody() {
    let server = Server::start().await;
    let limits = together(100);
    let limiter = limiter(&server.url(), LONG);
    assert!(!check(&limiter, &limits).await.is_degraded());
    // Slowly, and looking up from time to time to say that it is loading.
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
        until_alone(&limiter).await;
        for _ in 0..4 {
            assert!(check(&limiter, &limits).await.is_degraded());
        }
    };
    tokio::join!(reload, load);
    until_shared(&limiter).await;
    assert!(!check(&limiter, &limits).await.is_degraded());
    assert_eq!(counted(&server, &limits).await, [6; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_no_connection_to_spare_is_asked_when_it_has_one() {
    let server = Server::start_with(&["--maxclients", "5"]).await;
    let mut others = Vec::new();
    loop {
        let mut other = TcpStream::connect(server.address()).await.unwrap();
        other.write_all(b"PING\r\n").await.unwrap();
        let mut answer = [0; 7];
        // The one too many is told so.
        other.read_exact(&mut answer).await.unwrap();
        if &answer != b"+PONG\r\n" {
            break;
        }
        others.push(other);
    }
    let limits = together(10);
    let limiter = limiter(&server.url(), LONG);
    let ping = RedisStore::new(&server.url()).unwrap().ping().await;
    let error = ping.unwrap_err();
    let kinds = [StoreErrorKind::Rejected, StoreErrorKind::Unavailable];
    assert!(kinds.contains(&error.kind()), "{}", story(&error));
    let decision = timeout(PATIENCE, check(&limiter, &limits)).await.unwrap();
    assert!(decision.is_allowed() && decision.is_degraded());
    until_alone(&limiter).await;

    others.clear();
    until_shared(&limiter).await;
    assert_eq!(check(&limiter, &limits).await.remaining(), 8);
    assert_eq!(counted(&server, &limits).await, [2; 3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_left_for_the_primary() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let limits = together(10);
    let limiter = limiter(&proxy.url(), LONG);
    assert!(check(&limiter, &limits).await.is_allowed());
    assert_eq!(proxy.connections(), 1);
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let decision = check(&limiter, &limits).await;
    assert!(decision.is_allowed() && decision.is_degraded());
    // As it would be if the name led to another server now.
    assert_eq!(proxy.connections(), 2, "it looks once where it leads");
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    let decision = check(&limiter, &limits).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 7);
    assert_eq!(counted(&server, &limits).await, [3; 3]);
}
