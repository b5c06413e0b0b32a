//! A limiter before a store that does as it is told, in virtual time.

#![allow(dead_code, reason = "no test needs all of it")]

use std::time::Duration;

use tokio::time::sleep;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{Check, Decision, Identity, Limiter, Limits, Quota, StoreErrorKind};

pub(crate) const DEADLINE: Duration = Duration::from_millis(50);
pub(crate) const DOWN: Behavior = Behavior::Fail(StoreErrorKind::Unavailable);
/// Nothing is regained while a test runs.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Longer than any wait between probes, and a deadline.
pub(crate) const PROBED: Duration = Duration::from_millis(1_100);

pub(crate) fn alice() -> Identity {
    Identity::user("alice")
}

pub(crate) fn ten_a_day() -> Limits {
    Quota::per_day(10).into()
}

pub(crate) async fn check(limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    check_as(&alice(), limiter, limits).await
}

pub(crate) async fn check_as(
    who: &Identity,
    limiter: &Limiter,
    limits: &Limits,
) -> Decision<'static> {
    limiter.check(&Check::new(who, limits)).await.into_owned()
}

/// Fails checks until the breaker is open.
pub(crate) async fn open_breaker(limiter: &Limiter, store: &ProgrammableStore) {
    let limits = Quota::per_second(1_000).into();
    let bystander = Identity::user("bystander");
    for _ in 0..10 {
        let calls = store.calls();
        check_as(&bystander, limiter, &limits).await;
        if store.calls() == calls {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("the breaker did not open");
}

pub(crate) async fn admitted(limiter: &Limiter, limits: &Limits) -> usize {
    let mut admitted = 0;
    for _ in 0..limits.policies()[0].quota().capacity() + 5 {
        admitted += usize::from(check(limiter, limits).await.is_allowed());
    }
    admitted
}
