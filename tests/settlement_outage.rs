//! Charges are settled where they were made, also when the store fails, recovers or answers too late.

use std::time::Duration;

use tokio::time::sleep;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{Check, FailureStrategy, Identity, Limiter, Limits, Permit, Quota, StoreErrorKind};

/// Contains no end of a window while the tests run.
const YEARS: Duration = Duration::from_secs(3_650 * 86_400);

struct Subject {
    store: ProgrammableStore,
    limiter: Limiter,
    limits: Limits,
    identity: Identity,
}

impl Subject {
    fn new(quota: Quota, strategy: FailureStrategy) -> Self {
        let store = ProgrammableStore::new();
        let limiter = Limiter::builder(store.clone()).failure_strategy(strategy);
        Self {
            store,
            limiter: limiter.build(),
            limits: quota.into(),
            identity: Identity::user("alice"),
        }
    }

    async fn acquire(&self, cost: u32) -> Option<Permit> {
        let check = Check::new(&self.identity, &self.limits).cost(cost);
        self.limiter.acquire(&check).await.ok()
    }

    async fn remaining(&self) -> u32 {
        let check = Check::new(&self.identity, &self.limits);
        self.limiter.peek(&check).await.remaining()
    }

    /// Fails checks until the breaker is open.
    async fn begin_outage(&self) {
        self.store
            .behave(Behavior::Fail(StoreErrorKind::Unavailable));
        let (bystander, limits) = (Identity::user("bob"), Limits::from(Quota::per_hour(100)));
        for _ in 0..5 {
            self.limiter.check(&Check::new(&bystander, &limits)).await;
            // Failures at the same instant count as one.
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end_outage(&self) {
        self.store.behave(Behavior::Answer);
        // Probes close the breaker within seconds.
        sleep(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn charge_of_the_fallback_is_settled_there() {
    let subject = Subject::new(Quota::fixed_window(10, YEARS), FailureStrategy::Open);
    subject.begin_outage().await;
    let permit = subject.acquire(8).await.expect("10 are left");
    assert!(permit.decision().is_degraded());
    assert_eq!(subject.remaining().await, 2);
    permit.settle(1);
    assert_eq!(subject.remaining().await, 9);
}

#[tokio::test(start_paused = true)]
async fn charge_from_before_an_outage_is_not_given_back() {
    let subject = Subject::new(Quota::fixed_window(10, YEARS), FailureStrategy::Open);
    let permit = subject.acquire(8).await.expect("10 are left");
    subject.begin_outage().await;
    subject.end_outage().await;
    permit.refund();
    assert_eq!(subject.remaining().await, 2);
}

#[tokio::test(start_paused = true)]
async fn fallback_begins_with_the_open_slots() {
    let subject = Subject::new(Quota::concurrent(3), FailureStrategy::Open);
    let before = subject.acquire(2).await;
    subject.begin_outage().await;
    assert!(subject.acquire(2).await.is_none());
    let during = subject.acquire(1).await;
    assert!(during.is_some());
    drop(before);
    assert_eq!(subject.remaining().await, 2);
}

#[tokio::test(start_paused = true)]
async fn open_slots_are_charged_to_the_store_after_an_outage() {
    let subject = Subject::new(Quota::concurrent(3), FailureStrategy::Open);
    subject.begin_outage().await;
    let during = subject.acquire(2).await.expect("3 are free");
    subject.end_outage().await;
    assert_eq!(subject.remaining().await, 1);
    drop(during);
    assert_eq!(subject.remaining().await, 3);
}

#[tokio::test(start_paused = true)]
async fn closed_strategy_gives_no_slots() {
    let subject = Subject::new(Quota::concurrent(3), FailureStrategy::Closed);
    subject.begin_outage().await;
    assert!(subject.acquire(1).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn slot_of_a_late_answer_is_free_again() {
    let subject = Subject::new(Quota::concurrent(1), FailureStrategy::Closed);
    subject
        .store
        .behave(Behavior::AnswerAfter(Duration::from_secs(1)));
    assert!(
        subject.acquire(1).await.is_none(),
        "the deadline has passed"
    );
    subject.store.behave(Behavior::Answer);
    assert!(subject.acquire(1).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn slot_stays_taken_after_a_failed_renewal() {
    let subject = Subject::new(Quota::concurrent(1), FailureStrategy::Open);
    let permit = subject.acquire(1).await;
    subject.store.behave(Behavior::Hang);
    sleep(Duration::from_secs(15)).await;
    subject.store.behave(Behavior::Answer);
    sleep(Duration::from_secs(60)).await;
    assert!(subject.acquire(1).await.is_none());
    drop(permit);
}
