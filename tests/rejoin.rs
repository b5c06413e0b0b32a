//! What replicas counted while the server was away is joined when it is back: the shared count
//! goes on from the most indebted of them. Nobody is handed a fresh bucket, and nothing counts
//! twice.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use outage::{
    LONG, alice, check, counted, limiter, look, quotas, together, until_alone, until_shared,
};
use servers::{Proxy, Server};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tollgate::{Check, Identity, Limiter, Limits, Quota, RedisStore};

/// Three replicas of an application, and the network between them and their server.
///
/// An outage of the network is noticed at once, so that the deadline can be long, and what is not
/// to be degraded never is.
struct Replicas {
    server: Server,
    proxy: Proxy,
    limiters: [Limiter; 3],
}

impl Replicas {
    async fn start(share: u32) -> Self {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address()).await;
        let share = NonZeroU32::new(share).unwrap();
        let limiters = [(); 3].map(|()| {
            let store = RedisStore::new(&proxy.url()).unwrap();
            let limiter = Limiter::builder(store).deadline(LONG);
            limiter.fallback_share(share).build()
        });
        Self {
            server,
            proxy,
            limiters,
        }
    }

    /// Cuts the network, and waits until every replica is on its own.
    async fn part(&self) {
        self.proxy.refuse();
        self.proxy.cut();
        join_all(self.limiters.iter().map(until_alone)).await;
    }

    /// Mends the network, and waits until every replica has noticed.
    async fn meet(&self) {
        self.proxy.pass();
        join_all(self.limiters.iter().map(until_shared)).await;
    }

    /// So many checks of Alice's at each replica, all admitted, by the store or not.
    async fn admit(&self, limits: &Limits, times: [u32; 3], degraded: bool) {
        for (limiter, times) in self.limiters.iter().zip(times) {
            for _ in 0..times {
                let decision = check(limiter, limits).await;
                assert!(decision.is_allowed(), "{limits:?}");
                assert_eq!(decision.is_degraded(), degraded, "{limits:?}");
            }
        }
    }

    /// How many of so many checks of Alice's, from all replicas at once, are admitted.
    async fn admitted(&self, limits: &Limits, each: usize) -> usize {
        let mut checks = JoinSet::new();
        for limiter in &self.limiters {
            for _ in 0..each {
                let (limiter, limits) = (limiter.clone(), limits.clone());
                checks.spawn(async move {
                    let decision = check(&limiter, &limits).await;
                    assert!(!decision.is_degraded(), "{limits:?}");
                    decision.is_allowed()
                });
            }
        }
        let answers = checks.join_all().await;
        answers.into_iter().filter(|allowed| *allowed).count()
    }
}

/// Each algorithm alone, and all of them together.
fn all_limits(limit: u32) -> impl Iterator<Item = Limits> {
    let alone = quotas(limit).map(Limits::from);
    alone.into_iter().chain([together(limit)])
}

/// As much of each policy.
fn each(limits: &Limits, counted: u32) -> Vec<u32> {
    vec![counted; limits.policies().len()]
}

/// Checks of many others at each replica, which must not matter, until told to stop.
fn crowd(replicas: &Replicas) -> impl AsyncFnOnce() {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for (replica, limiter) in replicas.limiters.iter().enumerate() {
        for task in 0..4 {
            let (limiter, stop) = (limiter.clone(), stop.clone());
            tasks.spawn(async move {
                let limits = Limits::from(Quota::per_day(5));
                let mut who = 0;
                while !stop.load(Ordering::Relaxed) {
                    let who_asks = Identity::user(&format!("{replica} {task} {}", who % 20));
                    limiter.check(&Check::new(&who_asks, &limits)).await;
                    who += 1;
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
    }
    async move || {
        stop.store(true, Ordering::Relaxed);
        tasks.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_count_goes_on_from_the_most_indebted_replica() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(40) {
        let stop = crowd(&replicas);
        // They know of 2, 5 and 9.
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.part().await;
        // And then of 22, 6 and 12, though 33 were admitted in all.
        replicas.admit(&limits, [20, 1, 3], true).await;
        replicas.meet().await;

        // Looks carry it too: from all replicas at once, as often as they like.
        for _ in 0..3 {
            let looks = replicas
                .limiters
                .iter()
                .map(|limiter| look(limiter, &limits));
            join_all(looks).await;
        }
        for limiter in &replicas.limiters {
            assert_eq!(look(limiter, &limits).await.remaining(), 18, "{limits:?}");
        }
        assert_eq!(counted(&replicas.server, &limits).await, each(&limits, 22));

        assert_eq!(replicas.admitted(&limits, 15).await, 18, "{limits:?}");
        assert_eq!(counted(&replicas.server, &limits).await, each(&limits, 40));
        stop().await;
        assert_eq!(replicas.server.keys_without_ttl().await, [""; 0]);
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_carries_counts_before_it_does() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(40) {
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.part().await;
        replicas.admit(&limits, [20, 1, 3], true).await;
        replicas.meet().await;
        // 22, 6 and 12 as they have it: the first check joins the most, the others add themselves.
        for (limiter, left) in replicas.limiters.iter().zip([17, 16, 15]) {
            let decision = check(limiter, &limits).await;
            assert!(!decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{limits:?}");
        }
        assert_eq!(counted(&replicas.server, &limits).await, each(&limits, 25));
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_outlives_the_servers_memory() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(40) {
        let stop = crowd(&replicas);
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.server.kill();
        replicas.part().await;
        replicas.admit(&limits, [20, 1, 3], true).await;
        replicas.server.restart().await;
        assert_eq!(counted(&replicas.server, &limits).await, each(&limits, 0));
        replicas.meet().await;
        let looks = replicas
            .limiters
            .iter()
            .map(|limiter| look(limiter, &limits));
        join_all(looks).await;
        assert_eq!(counted(&replicas.server, &limits).await, each(&limits, 22));
        assert_eq!(replicas.admitted(&limits, 15).await, 18, "{limits:?}");
        stop().await;
        assert_eq!(replicas.server.keys_without_ttl().await, [""; 0]);
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_had_nothing_left_is_handed_nothing_by_a_server_that_lost_its_memory() {
    let server = Server::start().await;
    for limits in all_limits(5) {
        let limiter = limiter(&server.url(), LONG);
        for _ in 0..5 {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_allowed() && !decision.is_degraded());
        }
        server.kill();
        until_alone(&limiter).await;
        // The fallback serves her too: it denies, from what the last shared decision left.
        assert!(!check(&limiter, &limits).await.is_allowed(), "{limits:?}");
        server.restart().await;
        until_shared(&limiter).await;
        assert!(!check(&limiter, &limits).await.is_allowed(), "{limits:?}");
        assert_eq!(counted(&server, &limits).await[0], 5, "{limits:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_joined_as_what_all_replicas_may_have_admitted() {
    let replicas = Replicas::start(3).await;
    for limits in all_limits(40) {
        // They know of 2, 5 and 9.
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.part().await;
        // Each charges three times over: 8, 8 and 21, which is more than the 16 of them all.
        replicas.admit(&limits, [2, 1, 4], true).await;
        replicas.meet().await;
        let looks = replicas
            .limiters
            .iter()
            .map(|limiter| look(limiter, &limits));
        join_all(looks).await;
        assert_eq!(counted(&replicas.server, &limits).await, each(&limits, 21));
        assert_eq!(replicas.admitted(&limits, 15).await, 19, "{limits:?}");
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_shares_admit_no_more_than_the_limit_through_an_outage() {
    let replicas = Replicas::start(3).await;
    for limits in all_limits(40) {
        replicas.part().await;
        let mut admitted = 0;
        for limiter in &replicas.limiters {
            while check(limiter, &limits).await.is_allowed() {
                admitted += 1;
            }
        }
        assert_eq!(admitted, 3 * 13, "{limits:?}");
        replicas.meet().await;
        let looks = replicas
            .limiters
            .iter()
            .map(|limiter| look(limiter, &limits));
        join_all(looks).await;
        assert_eq!(replicas.admitted(&limits, 5).await, 1, "{limits:?}");
        assert_eq!(counted(&replicas.server, &limits).await, each(&limits, 40));
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_that_go_on_through_outages_are_neither_lost_nor_counted_twice() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(2_000) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for limiter in &replicas.limiters {
            let (limiter, limits, stop) = (limiter.clone(), limits.clone(), stop.clone());
            tasks.spawn(async move {
                // One after another, so that what a replica admitted is what it knows of, at
                // least.
                let mut admitted = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert!(check(&limiter, &limits).await.is_allowed(), "{limits:?}");
                    admitted += 1;
                    sleep(Duration::from_millis(10)).await;
                }
                admitted
            });
        }
        for _ in 0..3 {
            replicas.part().await;
            replicas.meet().await;
        }
        stop.store(true, Ordering::Relaxed);
        let admitted = tasks.join_all().await;
        let looks = replicas
            .limiters
            .iter()
            .map(|limiter| look(limiter, &limits));
        join_all(looks).await;
        let (most, all) = (
            *admitted.iter().max().unwrap(),
            admitted.iter().sum::<u32>(),
        );
        for counted in counted(&replicas.server, &limits).await {
            assert!((most..=all).contains(&counted), "{counted} of {admitted:?}");
        }
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_in_time_is_carried_again_and_counts_once() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let deadline = Duration::from_secs(1);
    let (limits, limiter) = (together(100), limiter(&proxy.url(), deadline));
    let mut admitted = 0;
    // Each carries what the one before has left here, and the server may have counted it or not.
    for _ in 0..4 {
        proxy.halve();
        for _ in 0..3 {
            assert!(check(&limiter, &limits).await.is_allowed());
            admitted += 1;
        }
        proxy.delay(deadline * 3 / 5);
        assert!(check(&limiter, &limits).await.is_allowed());
        admitted += 1;
        proxy.pass();
    }
    until_shared(&limiter).await;
    while look(&limiter, &limits).await.is_degraded() {}
    assert_eq!(counted(&server, &limits).await, [admitted; 3]);
    let alice = alice();
    let all = Check::new(&alice, &limits).cost(100 - admitted);
    assert!(outage::ask(&server, &all).await.is_allowed());
    assert!(
        !outage::ask(&server, &Check::new(&alice, &limits))
            .await
            .is_allowed()
    );
}
