//! The limiter works with stores that an application writes: it guards a store that can fail, and
//! passes on what a check brings.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tollgate::store::{Outcome, Status, Store, Verdict};
use tollgate::{
    Check, Checked, Identity, Limiter, Limits, LocalStore, Quota, RateLimitLayer, StoreError,
    StoreErrorKind,
};

/// A store in front of another limiter, which can be switched off.
#[derive(Clone)]
struct Outer(Arc<OuterState>);

struct OuterState {
    inner: Limiter,
    is_down: AtomicBool,
    /// Whether the inner limiter allowed each check that reached it.
    inner_decisions: Mutex<Vec<bool>>,
}

impl Outer {
    fn new() -> Self {
        Self(Arc::new(OuterState {
            inner: LocalStore::new().into(),
            is_down: AtomicBool::new(false),
            inner_decisions: Mutex::default(),
        }))
    }

    fn set_down(&self, is_down: bool) {
        self.0.is_down.store(is_down, Ordering::Relaxed);
    }
}

impl Store for Outer {
    fn check(&self, check: &Check<'_>) -> Outcome {
        if self.0.is_down.load(Ordering::Relaxed) {
            return Outcome::Ready(Err(StoreErrorKind::Unavailable.into()));
        }
        let Checked::Ready(decision) = self.0.inner.check(check) else {
            panic!("a limiter in the process decides at once");
        };
        let allowed = decision.is_allowed();
        self.0.inner_decisions.lock().unwrap().push(allowed);
        Outcome::Ready(Ok(Verdict::new(allowed, 0, [])))
    }

    fn check_now(&self, _: &Check<'_>) -> Option<Status> {
        panic!("a store that can fail is called through its breaker only");
    }

    fn reset(&self, _: &Check<'_>) -> Outcome<()> {
        Outcome::Ready(Err(StoreError::from(StoreErrorKind::Unavailable)))
    }
}

#[tokio::test]
async fn fallible_store_is_not_asked_past_its_breaker() {
    let store = Outer::new();
    store.set_down(true);
    let limiter = Limiter::builder(store.clone())
        .failures_to_open(NonZeroU32::MIN)
        .build();
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(2)));
    let check = Check::new(&alice, &limits);

    let failed = limiter.check(&check).await;
    store.set_down(false);
    let while_open = limiter.check(&check).await;

    assert!(failed.is_degraded() && while_open.is_degraded());
    assert!(store.0.inner_decisions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn fallback_states_reach_a_nested_limiter() {
    let store = Outer::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let check = Check::new(&alice, &limits);

    store.set_down(true);
    let admitted = limiter.check(&check).await;
    store.set_down(false);
    let _ = limiter.check(&check).await;

    assert!(admitted.is_allowed(), "the fallback admits one request");
    let decisions = store.0.inner_decisions.lock().unwrap().clone();
    assert_eq!(decisions, [false], "the inner limiter knows of it");
}

#[test]
fn layer_that_settles_needs_a_store_that_can() {
    let plain = RateLimitLayer::new(Quota::per_hour(1), Outer::new());
    assert_eq!(plain.validate(), Ok(()));
    for layer in [
        RateLimitLayer::new(Quota::concurrent(1), Outer::new()),
        plain.charge_if(|_| true),
    ] {
        let error = layer
            .validate()
            .expect_err("the store cannot settle")
            .to_string();
        assert!(
            error.contains("the store `custom` cannot settle"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn failure_strategy_decides_what_a_store_cannot_reserve() {
    let limiter = Limiter::from(Outer::new());
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::concurrent(1)));
    let check = Check::new(&alice, &limits);
    let permit = limiter.acquire(&check).await.expect("a free slot");
    assert!(permit.decision().is_degraded());
    assert!(limiter.acquire(&check).await.is_err());
    drop(permit);
    assert!(limiter.acquire(&check).await.is_ok());
}
