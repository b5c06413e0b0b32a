//! A limiter before a real server, ways to ask it, and to see what the server has counted.

#![allow(dead_code, reason = "no test needs all of it")]

use std::time::Duration;

use tollgate::{
    Check, Checked, Decision, Identity, Limiter, Limits, Policy, Quota, RedisStore, Store, Verdict,
};

use crate::servers::{Server, Wait};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A deadline by which a server that stands still is noticed. Now and then a busy machine misses
/// it too.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// A deadline that no machine is too busy for, where what is answered matters, or an outage is
/// noticed without one.
pub(crate) const LONG: Duration = Duration::from_secs(15);

/// A quota of each algorithm. None gives anything back while a test runs.
pub(crate) fn quotas(limit: u32) -> [Quota; 3] {
    [
        Quota::token_bucket(limit, 3_650 * DAY),
        Quota::sliding_window(limit, 3_650 * DAY),
        Quota::fixed_window(limit, 3_650 * DAY),
    ]
}

/// All of them together, the last one the tightest.
pub(crate) fn together(limit: u32) -> Limits {
    let [bucket, _, _] = quotas(limit + 2);
    let [_, sliding, _] = quotas(limit + 1);
    let [_, _, fixed] = quotas(limit);
    let named = [("bucket", bucket), ("sliding", sliding), ("fixed", fixed)];
    Limits::new(named.map(|(name, quota)| Policy::new(name, quota))).unwrap()
}

/// A limit that is far away.
pub(crate) fn far() -> Limits {
    Limits::from(Quota::token_bucket(1_000_000, 3_650 * DAY))
}

pub(crate) fn alice() -> Identity {
    Identity::user("alice")
}

pub(crate) fn limiter(url: &str, deadline: Duration) -> Limiter {
    let store = RedisStore::new(url).unwrap();
    Limiter::builder(store).deadline(deadline).build()
}

/// A check of Alice's.
pub(crate) async fn check(limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    let alice = alice();
    let decision = limiter.check(&Check::new(&alice, limits)).await;
    decision.into_owned()
}

/// A look at what Alice has left.
pub(crate) async fn look(limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    let alice = alice();
    let decision = limiter.peek(&Check::new(&alice, limits)).await;
    decision.into_owned()
}

/// Waits until the store decides, as checks of somebody else's tell.
pub(crate) async fn until_shared(limiter: &Limiter) {
    let wait = Wait::until("the store decides");
    let (bystander, limits) = bystander();
    while limiter
        .check(&Check::new(&bystander, &limits))
        .await
        .is_degraded()
    {
        wait.on().await;
    }
}

/// Waits until the store is not asked any more, as checks of somebody else's tell.
pub(crate) async fn until_alone(limiter: &Limiter) {
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
        wait.on().await;
    }
}

fn bystander() -> (Identity, Limits) {
    let quota = Quota::per_second(1_000_000);
    (Identity::user("bystander"), Limits::from(quota))
}

/// What a store says that nothing has happened to.
pub(crate) async fn ask(server: &Server, check: &Check<'_>) -> Verdict {
    let store = RedisStore::new(&server.url()).unwrap();
    store.check(check).wait().await.unwrap()
}

/// How much of each of Alice's policies the server has counted. None of its counts may be there
/// forever.
pub(crate) async fn counted(server: &Server, limits: &Limits) -> Vec<u32> {
    counted_of(server, &alice(), limits).await
}

pub(crate) async fn counted_of(server: &Server, who: &Identity, limits: &Limits) -> Vec<u32> {
    let mut endless = server.keys_without_ttl().await;
    endless.retain(|key| key.starts_with("tollgate:"));
    assert_eq!(endless, [""; 0]);
    let verdict = ask(server, &Check::new(who, limits).cost(0)).await;
    let policies = limits.policies().iter().zip(verdict.states());
    let counted = policies.map(|(policy, state)| {
        let quota = policy.quota();
        let (_, status) = quota.step(*state, verdict.now(), 0);
        quota.capacity() - status.remaining()
    });
    counted.collect()
}
