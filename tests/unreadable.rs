//! A key whose value is not one of the store's affects its identity alone, which the fallback
//! decides. Other checks of the same batch are decided by the store.

#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;

use std::error::Error;

use futures_util::future::join_all;
use redis_limiter::{LONG_DEADLINE, alice, check, combined_limits, counted_for, limiter, quotas};
use servers::Server;
use tollgate::{Check, Checked, Identity, Limits, Policy, RedisStore, Store, StoreErrorKind};

/// Returns the keys of a user under these limits, in the order of the policies.
fn keys(user: &str, limits: &Limits) -> Vec<String> {
    let policies = limits.policies().iter();
    let key = |policy: &Policy| {
        let quota = policy.quota().to_string().replace(' ', "-");
        format!("tollgate:{{user:{user}}}:default:{}:{quota}", policy.name())
    };
    policies.map(key).collect()
}

const INVALID_VALUES: [&str; 31] = [
    "",
    "abc",
    "-5",
    "1e5",
    "0x10",
    " 5",
    "5\n",
    "1.5",
    "1:2:3:4",
    "1:-2",
    "-1:2:3",
    "9007199254740993",
    "99999999999999999999999",
    "9007199254740993:1:1",
    " ",
    " 1",
    "1 ",
    "+1",
    "1:",
    ":1",
    "nan",
    "inf",
    "1:99999999999999999999",
    "1\n",
    "1\u{0}",
    "1:1\u{0}",
    "١",
    "1:-1",
    "1:1:-1",
    "-1:1:1",
    "1:99999999999999999:1",
];

#[tokio::test]
async fn invalid_value_fails_one_check_and_nothing_is_written() {
    let server = Server::start().await;
    check_in_batches(&server, &combined_limits(10)).await;
    for quota in quotas(10) {
        server.command(&["FLUSHALL"]).await;
        check_in_batches(&server, &Limits::from(quota)).await;
    }
}

/// Writes each invalid value to each key of `alice`, and checks that only her check of a batch
/// fails.
async fn check_in_batches(server: &Server, limits: &Limits) {
    let (alice, bob) = (alice(), Identity::user("bob"));
    let alices_keys = keys("alice", limits);
    let mut admitted = 0;
    for invalid in &alices_keys {
        let texts = INVALID_VALUES.map(|text| vec!["SET", invalid, text]);
        let types = [
            vec!["LPUSH", invalid, "1"],
            vec!["HSET", invalid, "1", "1"],
            vec!["SADD", invalid, "1"],
        ];
        for command in texts.into_iter().chain(types) {
            server.command(&command).await;
            let written = server.command(&["DUMP", invalid]).await;
            // One batch, since the checks are made at once. Its second item is invalid.
            let store = RedisStore::new(&server.url()).unwrap();
            let checks = [&bob, &alice, &bob].map(|user| {
                let cost = if user == &alice { 2 } else { 1 };
                store.check(&Check::new(user, limits).cost(cost)).wait()
            });
            let [first, failed, third] = join_all(checks).await.try_into().unwrap();
            for verdict in [first, third] {
                admitted += u32::from(verdict.unwrap().is_allowed());
            }
            let error = failed.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unusable, "{command:?}");
            let cause = error.source().unwrap().to_string();
            assert!(cause.contains("delete it"), "{cause}");

            let keys = server.keys().await;
            let others: Vec<_> = alices_keys.iter().filter(|key| *key != invalid).collect();
            assert!(!keys.iter().any(|key| others.contains(&key)), "{keys:?}");
            assert_eq!(server.command(&["DUMP", invalid]).await, written);
            server.command(&["DEL", invalid]).await;
        }
    }
    assert_eq!(admitted, 10);
    assert_eq!(
        counted_for(server, &bob, limits).await,
        vec![10; alices_keys.len()]
    );
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn fallback_decides_identity_with_an_invalid_value() {
    let server = Server::start().await;
    for quota in quotas(10) {
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), LONG_DEADLINE));
        let [key] = &keys("alice", &limits)[..] else {
            panic!("not one policy");
        };
        server.command(&["SET", key, "no count"]).await;
        for left in (5..10).rev() {
            // The breaker stays closed, so the store is called each time.
            let (alice, bob) = (alice(), Identity::user("bob"));
            let checked = limiter.check(&Check::new(&alice, &limits));
            assert!(matches!(checked, Checked::Pending(_)), "{quota}");
            let decision = checked.await;
            assert!(decision.is_degraded() && decision.is_allowed(), "{quota}");
            assert_eq!(decision.remaining(), left, "{quota}");
            let decision = limiter.check(&Check::new(&bob, &limits)).await;
            assert!(!decision.is_degraded(), "{quota}");
        }
        // After the key was deleted, the store continues from the count of the fallback.
        server.command(&["DEL", key]).await;
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded());
        assert_eq!(decision.remaining(), 4, "{quota}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
}

#[tokio::test]
async fn only_reset_deletes_an_invalid_value() {
    let server = Server::start().await;
    let limits = Limits::from(quotas(10)[0]);
    let [key] = &keys("alice", &limits)[..] else {
        panic!("not one policy");
    };
    let store = RedisStore::new(&server.url()).unwrap();
    let alice = alice();
    let check = Check::new(&alice, &limits);
    for command in [&["SET", key, "not a count"][..], &["RPUSH", key, "a list"]] {
        server.command(command).await;
        let error = store.check(&check).wait().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unusable);
        assert_eq!(server.keys().await, [key.as_str()]);
        store.reset(&check).wait().await.unwrap();
        assert_eq!(server.keys().await, [""; 0]);
    }
}
