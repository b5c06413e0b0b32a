//! A limiter whose store is a `ProgrammableStore`, for tests in virtual time.
//!
//! Use it with `#[tokio::test(start_paused = true)]`. Unless a function takes an identity, it
//! checks the user `alice`.

#![allow(dead_code, reason = "no test needs all of it")]

use std::time::Duration;

use tokio::time::sleep;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{Check, Decision, Identity, Limiter, Limits, Quota, StoreErrorKind};

/// The default deadline of a limiter.
pub(crate) const DEADLINE: Duration = Duration::from_millis(50);

pub(crate) const DOWN: Behavior = Behavior::Fail(StoreErrorKind::Unavailable);

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Long enough for a probe to have finished: the longest interval between probes, plus a deadline.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(1_100);

pub(crate) fn alice() -> Identity {
    Identity::user("alice")
}

/// A quota that regains nothing while a test runs.
pub(crate) fn ten_a_day() -> Limits {
    Quota::per_day(10).into()
}

/// Makes a check of cost 1 for `alice`.
pub(crate) async fn check(limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    check_as(&alice(), limiter, limits).await
}

/// Makes a check of cost 1 for `identity`.
pub(crate) async fn check_as(
    identity: &Identity,
    limiter: &Limiter,
    limits: &Limits,
) -> Decision<'static> {
    limiter
        .check(&Check::new(identity, limits))
        .await
        .into_owned()
}

/// Makes checks of another user, which must fail, until the breaker is open.
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

/// Makes five checks more than the first policy's capacity, and returns how many were admitted.
pub(crate) async fn count_admitted(limiter: &Limiter, limits: &Limits) -> usize {
    let mut admitted = 0;
    for _ in 0..limits.policies()[0].quota().capacity() + 5 {
        admitted += usize::from(check(limiter, limits).await.is_allowed());
    }
    admitted
}
