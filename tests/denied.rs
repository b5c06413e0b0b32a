//! The error `Denied`.

use std::time::Duration;

use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{
    Check, Decision, Denied, FailureStrategy, Identity, Limiter, Limits, LocalStore, Quota,
    StoreErrorKind,
};

/// Checks this cost of `alice` under a quota of three a minute.
async fn check(limiter: &Limiter, cost: u32) -> Result<Decision<'static>, Denied> {
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_minute(3)));
    let check = Check::new(&alice, &limits).cost(cost);
    limiter.check(&check).await.into_owned().into_result()
}

fn local_limiter() -> Limiter {
    LocalStore::new().clock(ManualClock::new()).into()
}

#[tokio::test]
async fn allowed_decision_is_no_error() {
    let decision = check(&local_limiter(), 2).await.unwrap();
    assert_eq!(decision.remaining(), 1);
}

#[tokio::test]
async fn denied_has_the_decision() {
    let limiter = local_limiter();
    check(&limiter, 3).await.unwrap();
    let denied = check(&limiter, 2).await.unwrap_err();
    let decision = denied.decision();
    assert!(!decision.is_allowed() && !decision.is_refused());
    assert_eq!(decision.retry_after(), Some(Duration::from_secs(40)));
    assert_eq!(
        denied.to_string(),
        "rate limit exceeded: policy `default` allows 3/1m; retry after 40s"
    );
}

#[tokio::test]
async fn cost_above_capacity_is_never_allowed() {
    let denied = check(&local_limiter(), 4).await.unwrap_err();
    assert_eq!(
        denied.to_string(),
        "rate limit exceeded: policy `default` allows 3/1m; the same check can never be allowed"
    );
}

#[tokio::test]
async fn refusal_names_the_store() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let limiter = Limiter::from(store).failure_strategy(FailureStrategy::Closed);
    let denied = check(&limiter, 1).await.unwrap_err();
    assert!(denied.decision().is_refused());
    let text = denied.to_string();
    assert!(
        text.starts_with("the rate limiter's store is unavailable; retry after "),
        "{text}"
    );
}
