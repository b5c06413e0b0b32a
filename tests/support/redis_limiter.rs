//! A limiter in front of a real server, and functions to make checks and to read what the server
//! has counted.
//!
//! It needs `support/redis/mod.rs` as the module `servers`. Unless a function takes an identity, it
//! checks the user `alice`.

#![allow(dead_code, reason = "no test needs all of it")]

use std::time::Duration;

use tollgate::store::Verdict;
use tollgate::{
    Check, Checked, Decision, Identity, Limiter, Limits, Policy, Quota, RedisStore, Store,
};

use crate::servers::{Server, Wait};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A deadline for tests that wait until a paused server is noticed. A busy machine may miss it even
/// if the server is well.
pub(crate) const SHORT_DEADLINE: Duration = Duration::from_millis(100);

/// A deadline that no busy machine misses, for tests whose checks must not degrade, or whose outage
/// is noticed without a timeout.
pub(crate) const LONG_DEADLINE: Duration = Duration::from_secs(15);

/// Returns a quota of each algorithm, which regains nothing while a test runs.
pub(crate) fn quotas(limit: u32) -> [Quota; 3] {
    [
        Quota::token_bucket(limit, 3_650 * DAY),
        Quota::sliding_window(limit, 3_650 * DAY),
        Quota::fixed_window(limit, 3_650 * DAY),
    ]
}

/// Returns limits of three policies, one of each algorithm. The last is the tightest: it allows
/// `limit`, the first two allow more.
pub(crate) fn combined_limits(limit: u32) -> Limits {
    let [bucket, _, _] = quotas(limit + 2);
    let [_, sliding, _] = quotas(limit + 1);
    let [_, _, fixed] = quotas(limit);
    let named = [("bucket", bucket), ("sliding", sliding), ("fixed", fixed)];
    Limits::new(named.map(|(name, quota)| Policy::new(name, quota))).unwrap()
}

/// Returns limits that no test reaches.
pub(crate) fn high_limits() -> Limits {
    Limits::from(Quota::token_bucket(1_000_000, 3_650 * DAY))
}

pub(crate) fn alice() -> Identity {
    Identity::user("alice")
}

pub(crate) fn limiter(url: &str, deadline: Duration) -> Limiter {
    let store = RedisStore::new(url).unwrap();
    Limiter::builder(store).deadline(deadline).build()
}

/// Makes a check of cost 1 for `alice`.
pub(crate) async fn check(limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    let alice = alice();
    let decision = limiter.check(&Check::new(&alice, limits)).await;
    decision.into_owned()
}

/// Returns what `alice` has left, and charges nothing.
pub(crate) async fn peek(limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    let alice = alice();
    let decision = limiter.peek(&Check::new(&alice, limits)).await;
    decision.into_owned()
}

/// Waits until the store decides checks of another user.
pub(crate) async fn wait_until_store_decides(limiter: &Limiter) {
    let wait = Wait::until("the store decides");
    let (bystander, limits) = bystander();
    while limiter
        .check(&Check::new(&bystander, &limits))
        .await
        .is_degraded()
    {
        wait.sleep().await;
    }
}

/// Makes checks of another user until the breaker is open, so that the store is not called.
pub(crate) async fn wait_until_breaker_opens(limiter: &Limiter) {
    let wait = Wait::until("the breaker is open");
    let (bystander, limits) = bystander();
    loop {
        match limiter.check(&Check::new(&bystander, &limits)) {
            Checked::Ready(decision) => {
                assert!(decision.is_degraded());
                return;
            }
            Checked::Pending(pending) => drop(pending.await),
        }
        wait.sleep().await;
    }
}

fn bystander() -> (Identity, Limits) {
    let quota = Quota::per_second(1_000_000);
    (Identity::user("bystander"), Limits::from(quota))
}

/// Returns the verdict of a new store, which no earlier outage has affected.
pub(crate) async fn check_in_new_store(server: &Server, check: &Check<'_>) -> Verdict {
    let store = RedisStore::new(&server.url()).unwrap();
    store.check(check).wait().await.unwrap()
}

/// Returns what the server has counted for `alice` under each policy. Panics if a key of the store
/// has no time to live.
pub(crate) async fn counted(server: &Server, limits: &Limits) -> Vec<u32> {
    counted_for(server, &alice(), limits).await
}

/// Returns what the server has counted for `identity` under each policy. Panics if a key of the
/// store has no time to live.
pub(crate) async fn counted_for(server: &Server, identity: &Identity, limits: &Limits) -> Vec<u32> {
    let mut without_ttl = server.keys_without_ttl().await;
    without_ttl.retain(|key| key.starts_with("tollgate:"));
    assert_eq!(without_ttl, [""; 0]);
    let verdict = check_in_new_store(server, &Check::new(identity, limits).cost(0)).await;
    let policies = limits.policies().iter().zip(verdict.states());
    let counted = policies.map(|(policy, state)| {
        let quota = policy.quota();
        let (_, status) = quota.step(*state, verdict.now(), 0);
        quota.capacity() - status.remaining()
    });
    counted.collect()
}
