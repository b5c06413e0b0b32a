//! Replicas count in their fallbacks while they cannot reach the server. When they can again, the
//! counts are joined: the shared count continues from the replica that counted most. No identity
//! gets a fresh quota, and no check is counted twice.

#[path = "support/load.rs"]
mod load;
#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::future::join_all;
use load::Load;
use redis_limiter::{
    LONG_DEADLINE, alice, check, combined_limits, counted, limiter, peek, quotas,
    wait_until_breaker_opens, wait_until_store_decides,
};
use servers::{Proxy, Server};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tollgate::{Check, Identity, Limiter, Limits, Quota, RedisStore};

/// Three replicas of an application that reach their server through a proxy.
///
/// A closed proxy is noticed without a timeout, so the deadline can be long: checks degrade only
/// while the replicas are disconnected.
struct Replicas {
    server: Server,
    proxy: Proxy,
    limiters: [Limiter; 3],
}

impl Replicas {
    /// Starts replicas with this fallback share.
    async fn start(share: u32) -> Self {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address()).await;
        let share = NonZeroU32::new(share).unwrap();
        let limiters = [(); 3].map(|()| {
            let store = RedisStore::new(&proxy.url()).unwrap();
            let limiter = Limiter::builder(store).deadline(LONG_DEADLINE);
            limiter.fallback_replicas(share).build()
        });
        Self {
            server,
            proxy,
            limiters,
        }
    }

    /// Closes the proxy and waits until the breaker of every replica is open.
    async fn disconnect(&self) {
        self.proxy.refuse_connections();
        self.proxy.close_connections();
        join_all(self.limiters.iter().map(wait_until_breaker_opens)).await;
    }

    /// Opens the proxy and waits until the store decides for every replica.
    async fn reconnect(&self) {
        self.proxy.forward();
        join_all(self.limiters.iter().map(wait_until_store_decides)).await;
    }

    /// Makes `times[i]` checks of `alice` at replica `i`. All must be admitted, and be degraded if
    /// `degraded` is set.
    async fn admit(&self, limits: &Limits, times: [u32; 3], degraded: bool) {
        for (limiter, times) in self.limiters.iter().zip(times) {
            for _ in 0..times {
                let decision = check(limiter, limits).await;
                assert!(decision.is_allowed(), "{limits:?}");
                assert_eq!(decision.is_degraded(), degraded, "{limits:?}");
            }
        }
    }

    /// Makes `each` concurrent checks of `alice` at every replica. Returns how many were admitted.
    async fn count_admitted(&self, limits: &Limits, each: usize) -> usize {
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

    /// Makes a peek at every replica, which carries what its fallback has counted to the server.
    async fn peek_all(&self, limits: &Limits) {
        join_all(self.limiters.iter().map(|limiter| peek(limiter, limits))).await;
    }
}

/// Returns limits of each algorithm alone, and of all of them together.
fn all_limits(limit: u32) -> impl Iterator<Item = Limits> {
    let alone = quotas(limit).map(Limits::from);
    alone.into_iter().chain([combined_limits(limit)])
}

/// Returns `counted` once for each policy.
fn each_policy(limits: &Limits, counted: u32) -> Vec<u32> {
    vec![counted; limits.policies().len()]
}

/// Makes checks of many other users at each replica, which must not affect `alice`.
fn check_other_users(replicas: &Replicas) -> Load<()> {
    let mut load = Load::new();
    for (replica, limiter) in replicas.limiters.iter().enumerate() {
        for task in 0..4 {
            let limiter = limiter.clone();
            load.spawn(move |running| async move {
                let limits = Limits::from(Quota::per_day(5));
                let mut number = 0;
                while running.get() {
                    let user = Identity::user(&format!("{replica} {task} {}", number % 20));
                    limiter.check(&Check::new(&user, &limits)).await;
                    number += 1;
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
    }
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_count_continues_from_the_most_charged_replica() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(40) {
        let load = check_other_users(&replicas);
        // The last decisions of the replicas have counted 2, 5 and 9.
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.disconnect().await;
        // Their fallbacks count up to 22, 6 and 12, although 33 are admitted in all.
        replicas.admit(&limits, [20, 1, 3], true).await;
        replicas.reconnect().await;

        // Each peek carries these counts, which are joined once.
        for _ in 0..3 {
            replicas.peek_all(&limits).await;
        }
        for limiter in &replicas.limiters {
            assert_eq!(peek(limiter, &limits).await.remaining(), 18, "{limits:?}");
        }
        assert_eq!(
            counted(&replicas.server, &limits).await,
            each_policy(&limits, 22)
        );

        assert_eq!(replicas.count_admitted(&limits, 15).await, 18, "{limits:?}");
        assert_eq!(
            counted(&replicas.server, &limits).await,
            each_policy(&limits, 40)
        );
        load.stop().await;
        assert_eq!(replicas.server.keys_without_ttl().await, [""; 0]);
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carried_count_is_joined_before_the_check_is_charged() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(40) {
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.disconnect().await;
        replicas.admit(&limits, [20, 1, 3], true).await;
        replicas.reconnect().await;
        // The replicas carry 22, 6 and 12. The first check joins the most, and each later one adds
        // only itself.
        for (limiter, left) in replicas.limiters.iter().zip([17, 16, 15]) {
            let decision = check(limiter, &limits).await;
            assert!(!decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{limits:?}");
        }
        assert_eq!(
            counted(&replicas.server, &limits).await,
            each_policy(&limits, 25)
        );
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fallback_counts_survive_a_server_without_data() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(40) {
        let load = check_other_users(&replicas);
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.server.kill();
        replicas.disconnect().await;
        replicas.admit(&limits, [20, 1, 3], true).await;
        replicas.server.restart().await;
        assert_eq!(
            counted(&replicas.server, &limits).await,
            each_policy(&limits, 0)
        );
        replicas.reconnect().await;
        replicas.peek_all(&limits).await;
        assert_eq!(
            counted(&replicas.server, &limits).await,
            each_policy(&limits, 22)
        );
        assert_eq!(replicas.count_admitted(&limits, 15).await, 18, "{limits:?}");
        load.stop().await;
        assert_eq!(replicas.server.keys_without_ttl().await, [""; 0]);
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_quota_stays_exhausted_after_data_loss() {
    let server = Server::start().await;
    for limits in all_limits(5) {
        let limiter = limiter(&server.url(), LONG_DEADLINE);
        for _ in 0..5 {
            let decision = check(&limiter, &limits).await;
            assert!(decision.is_allowed() && !decision.is_degraded());
        }
        server.kill();
        wait_until_breaker_opens(&limiter).await;
        // The fallback denies, since it continues from the last decision of the store.
        assert!(!check(&limiter, &limits).await.is_allowed(), "{limits:?}");
        server.restart().await;
        wait_until_store_decides(&limiter).await;
        assert!(!check(&limiter, &limits).await.is_allowed(), "{limits:?}");
        assert_eq!(counted(&server, &limits).await[0], 5, "{limits:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn share_is_joined_as_if_all_replicas_admitted_it() {
    let replicas = Replicas::start(3).await;
    for limits in all_limits(40) {
        // The last decisions of the replicas have counted 2, 5 and 9.
        replicas.admit(&limits, [2, 3, 4], false).await;
        replicas.disconnect().await;
        // Each fallback check is charged three times: 8, 8 and 21, more than the 16 admitted in
        // all.
        replicas.admit(&limits, [2, 1, 4], true).await;
        replicas.reconnect().await;
        replicas.peek_all(&limits).await;
        assert_eq!(
            counted(&replicas.server, &limits).await,
            each_policy(&limits, 21)
        );
        assert_eq!(replicas.count_admitted(&limits, 15).await, 19, "{limits:?}");
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_shares_admit_at_most_the_limit() {
    let replicas = Replicas::start(3).await;
    for limits in all_limits(40) {
        replicas.disconnect().await;
        let mut admitted = 0;
        for limiter in &replicas.limiters {
            while check(limiter, &limits).await.is_allowed() {
                admitted += 1;
            }
        }
        assert_eq!(admitted, 3 * 13, "{limits:?}");
        replicas.reconnect().await;
        replicas.peek_all(&limits).await;
        assert_eq!(replicas.count_admitted(&limits, 5).await, 1, "{limits:?}");
        assert_eq!(
            counted(&replicas.server, &limits).await,
            each_policy(&limits, 40)
        );
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn count_after_outages_is_between_most_and_sum() {
    let replicas = Replicas::start(1).await;
    for limits in all_limits(2_000) {
        let mut load = Load::new();
        for limiter in &replicas.limiters {
            let (limiter, limits) = (limiter.clone(), limits.clone());
            load.spawn(|running| async move {
                // Sequential checks, so that a replica has counted at least all that it admitted.
                let mut admitted = 0;
                while running.get() {
                    assert!(check(&limiter, &limits).await.is_allowed(), "{limits:?}");
                    admitted += 1;
                    sleep(Duration::from_millis(10)).await;
                }
                admitted
            });
        }
        for _ in 0..3 {
            replicas.disconnect().await;
            replicas.reconnect().await;
        }
        let admitted: Vec<u32> = load.stop().await;
        replicas.peek_all(&limits).await;
        let (most, all) = (*admitted.iter().max().unwrap(), admitted.iter().sum());
        for counted in counted(&replicas.server, &limits).await {
            assert!((most..=all).contains(&counted), "{counted} of {admitted:?}");
        }
        replicas.server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn count_carried_twice_is_joined_once() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let deadline = Duration::from_secs(1);
    let (limits, limiter) = (combined_limits(100), limiter(&proxy.url(), deadline));
    let mut admitted = 0;
    // Each check carries what the fallback has counted, and the server may have counted it already.
    for _ in 0..4 {
        proxy.truncate_next_reply();
        for _ in 0..3 {
            assert!(check(&limiter, &limits).await.is_allowed());
            admitted += 1;
        }
        proxy.delay(deadline * 3 / 5);
        assert!(check(&limiter, &limits).await.is_allowed());
        admitted += 1;
        proxy.forward();
    }
    wait_until_store_decides(&limiter).await;
    while peek(&limiter, &limits).await.is_degraded() {}
    assert_eq!(counted(&server, &limits).await, [admitted; 3]);
    let alice = alice();
    let all = Check::new(&alice, &limits).cost(100 - admitted);
    assert!(
        redis_limiter::check_in_new_store(&server, &all)
            .await
            .is_allowed()
    );
    assert!(
        !redis_limiter::check_in_new_store(&server, &Check::new(&alice, &limits))
            .await
            .is_allowed()
    );
}
