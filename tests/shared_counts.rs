//! Several stores on one server, as in several processes, admit exactly the limit together.

#[path = "support/redis/mod.rs"]
mod servers;

use std::time::Duration;

use servers::Server;
use tokio::task::JoinSet;
use tollgate::store::conformance;
use tollgate::{Check, Identity, Limits, Policy, Quota, RedisStore, Store};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread")]
async fn store_conforms() {
    let server = Server::start().await;
    conformance::check(RedisStore::new(&server.url()).unwrap()).await;
    let several_connections = RedisStore::builder(&server.url())
        .connections(4)
        .max_batch_keys(1);
    conformance::check(several_connections.build().unwrap()).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_stores_admit_exactly_the_limit_together() {
    let server = Server::start().await;
    // One store per process, some of them with several connections.
    let stores = [1, 1, 2, 3].map(|connections| {
        let store = RedisStore::builder(&server.url()).connections(connections);
        store.build().unwrap()
    });
    let quotas = [
        Quota::per_day(50),
        Quota::sliding_window(50, 365 * DAY),
        Quota::fixed_window(50, 3_650 * DAY),
    ];
    let alone = quotas.map(Limits::from);
    let named = ["one", "two", "three"].into_iter().zip(quotas);
    let together = Limits::new(named.map(|(name, quota)| Policy::new(name, quota))).unwrap();
    for limits in alone.into_iter().chain([together]) {
        for round in 0..20 {
            let identity = Identity::user(&round.to_string());
            let mut tasks = JoinSet::new();
            for task in 0..60 {
                let store = stores[task % stores.len()].clone();
                let check = Check::new(&identity, &limits).into_owned();
                tasks.spawn(async move {
                    let mut admitted = 0;
                    for _ in 0..2 {
                        let verdict = store.check(&check.borrow()).wait().await.unwrap();
                        admitted += u32::from(verdict.is_allowed());
                    }
                    admitted
                });
            }
            let admitted: u32 = tasks.join_all().await.into_iter().sum();
            assert_eq!(admitted, 50, "{limits:?}, round {round}: of 120 checks");
        }
    }
}

#[tokio::test]
async fn changed_quota_has_a_separate_count() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let alice = Identity::user("alice");
    let limits = [10, 5, 20].map(|limit| Limits::from(Quota::per_day(limit)));
    let mut admitted = [0; 3];
    // The quotas take turns, as during the rollout of a new version of an application.
    for _ in 0..30 {
        for (limits, admitted) in limits.iter().zip(&mut admitted) {
            let verdict = store
                .check(&Check::new(&alice, limits))
                .wait()
                .await
                .unwrap();
            *admitted += u32::from(verdict.is_allowed());
        }
    }
    assert_eq!(admitted, [10, 5, 20]);
}
