//! When the store fails, every request is answered within the deadline, as the failure strategy
//! says.
//!
//! All in virtual time.

#[path = "support/limiter.rs"]
mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{
    Check, Checked, FailureStrategy, Limiter, Limits, Policy, Quota, Scope, StoreErrorKind,
};

use support::{DEADLINE, DOWN, admitted, alice, check, ten_a_day};

#[tokio::test(start_paused = true)]
async fn every_strategy_answers_within_the_deadline() {
    let limits = ten_a_day();
    for (strategy, allowed) in [
        (FailureStrategy::Open, true),
        (FailureStrategy::OpenUnlimited, true),
        (FailureStrategy::Closed, false),
    ] {
        let store = ProgrammableStore::new();
        let limiter = Limiter::builder(store.clone())
            .failure_strategy(strategy)
            .build();
        for behavior in [
            Behavior::Hang,
            Behavior::AnswerAfter(10 * DEADLINE),
            DOWN,
            Behavior::Lie,
        ] {
            store.behave(behavior);
            let began = Instant::now();
            let decision = check(&limiter, &limits).await;
            assert!(
                began.elapsed() <= DEADLINE,
                "{strategy:?}, {behavior:?}: {:?}",
                began.elapsed()
            );
            assert!(decision.is_degraded(), "{strategy:?}, {behavior:?}");
            assert_eq!(decision.is_allowed(), allowed, "{strategy:?}, {behavior:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_just_in_time_counts() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(Behavior::AnswerAfter(DEADLINE - Duration::from_millis(1)));
    let decision = check(&limiter, &ten_a_day()).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 9);
}

#[tokio::test(start_paused = true)]
async fn open_unlimited_counts_nothing_and_closed_says_when_to_come_back() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(DOWN);
    let limits = ten_a_day();

    let unlimited = limiter
        .clone()
        .failure_strategy(FailureStrategy::OpenUnlimited);
    assert_eq!(admitted(&unlimited, &limits).await, 15);
    assert_eq!(check(&unlimited, &limits).await.remaining(), 10);

    let closed = limiter.clone().failure_strategy(FailureStrategy::Closed);
    let decision = check(&closed, &limits).await;
    assert!(decision.is_refused() && decision.is_degraded() && !decision.is_allowed());
    assert_eq!(decision.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!((decision.limit(), decision.remaining()), (10, 0));

    assert_eq!(
        admitted(&limiter, &limits).await,
        10,
        "the others counted nothing"
    );
    assert!(
        !check(&limiter, &limits).await.is_refused(),
        "denied, not refused"
    );
}

#[tokio::test(start_paused = true)]
async fn replicas_share_the_limit_while_the_store_is_away() {
    for (limit, replicas, each) in [(100, 4, 25), (10, 3, 3), (2, 10, 1), (1, 1, 1)] {
        let store = ProgrammableStore::new();
        store.behave(DOWN);
        let share = NonZeroU32::new(replicas).unwrap();
        let limiter = Limiter::builder(store).fallback_share(share).build();
        let limits = Quota::per_day(limit).into();
        let first = check(&limiter, &limits).await;
        assert_eq!(first.remaining(), each - 1, "{limit} over {replicas}");
        assert_eq!(
            1 + admitted(&limiter, &limits).await,
            each as usize,
            "{limit} over {replicas}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn several_policies_stay_all_or_nothing_in_the_fallback() {
    let store = ProgrammableStore::new();
    store.behave(DOWN);
    let limiter = Limiter::from(store);
    let limits = Limits::new([
        Policy::new("roomy", Quota::per_day(10)),
        Policy::new("tight", Quota::per_day(2)),
    ])
    .unwrap();
    assert_eq!(admitted(&limiter, &limits).await, 2);
    let decision = check(&limiter, &limits).await;
    let remaining: Vec<_> = decision
        .policies()
        .map(|(_, status)| status.remaining())
        .collect();
    assert_eq!(remaining, [8, 0]);
    assert_eq!(decision.policy().name(), "tight");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_does_not_hang_refunds_and_resets() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    store.behave(Behavior::Hang);
    let began = Instant::now();
    assert_eq!(
        limiter.refund(&check).await.unwrap_err().kind(),
        StoreErrorKind::TimedOut
    );
    assert_eq!(
        limiter.reset(&check).await.unwrap_err().kind(),
        StoreErrorKind::TimedOut
    );
    assert_eq!(began.elapsed(), 2 * DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn scopes_are_apart_in_the_fallback_too() {
    let store = ProgrammableStore::new();
    store.behave(DOWN);
    let limiter = Limiter::from(store);
    let (alice, limits) = (alice(), ten_a_day());
    let login = Scope::new("login").unwrap();
    let check = Check::new(&alice, &limits).cost(10);
    assert!(limiter.check(&check).await.is_allowed());
    assert!(limiter.check(&check.scope(&login)).await.is_allowed());
    assert!(!limiter.check(&check).await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_check_given_up_half_way_leaves_nothing_behind() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    store.behave(Behavior::Hang);
    for _ in 0..100 {
        let Checked::Pending(pending) = limiter.check(&Check::new(&alice, &limits)) else {
            panic!("the store hangs");
        };
        tokio::select! {
            biased;
            _ = pending => panic!("the store hangs"),
            () = sleep(Duration::from_millis(1)) => {}
        }
    }
    store.behave(Behavior::Answer);
    assert_eq!(check(&limiter, &limits).await.remaining(), 9);
}

#[tokio::test(start_paused = true)]
async fn what_remains_of_a_share_is_what_will_pass() {
    for (limit, replicas) in [(2, 10), (10, 3), (3, 3), (1, 1), (7, 2)] {
        let store = ProgrammableStore::new();
        store.behave(DOWN);
        let share = NonZeroU32::new(replicas).unwrap();
        let limiter = Limiter::builder(store).fallback_share(share).build();
        let (alice, limits) = (alice(), Limits::from(Quota::per_day(limit)));
        let check = Check::new(&alice, &limits);
        for _ in 0..limit + 1 {
            let left = limiter.peek(&check).await.remaining();
            let allowed = limiter.check(&check).await.is_allowed();
            assert_eq!(allowed, left > 0, "{limit} over {replicas}: {left} left");
        }
    }
}

#[test]
#[should_panic(expected = "a deadline of zero leaves a store no time to answer")]
fn a_deadline_of_zero_is_refused() {
    let _ = Limiter::builder(ProgrammableStore::new()).deadline(Duration::ZERO);
}
