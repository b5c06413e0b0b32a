//! When the store fails, every check is decided within the deadline, as the failure strategy says.
//!
//! All tests run in virtual time.

#[path = "support/limiter.rs"]
mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt, poll};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{
    Check, Checked, FailureStrategy, Identity, Limiter, Limits, Policy, Quota, Scope,
    StoreErrorKind,
};

use support::{DAY, DEADLINE, DOWN, alice, check, count_admitted, ten_a_day};

#[tokio::test(start_paused = true)]
async fn every_failure_strategy_answers_within_the_deadline() {
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
async fn each_check_times_out_at_its_own_time_left() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::Hang);
    let (limiter, limits, alice) = (Limiter::from(store), ten_a_day(), alice());
    let times = [30, 10, 40, 40, 5, 50].map(Duration::from_millis);
    let began = Instant::now();
    let checks = times.map(|time| {
        let mut check = Check::new(&alice, &limits);
        check.time_left = time;
        let checked = limiter.check(&check);
        async move {
            assert!(checked.await.is_degraded());
            let late = began.elapsed().saturating_sub(time);
            assert!(
                began.elapsed() >= time && late <= Duration::from_millis(2),
                "{time:?}"
            );
        }
    });
    join_all(checks).await;
}

#[tokio::test(start_paused = true)]
async fn pending_checks_time_out_after_others_were_dropped() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::Hang);
    let (limiter, limits, alice) = (Limiter::from(store), ten_a_day(), alice());
    let began = Instant::now();
    let mut waiting = Vec::new();
    for index in 0..100 {
        let Checked::Pending(mut pending) = limiter.check(&Check::new(&alice, &limits)) else {
            panic!("the store hangs");
        };
        // Polled in this task, then dropped or awaited in another.
        assert!(poll!(&mut pending).is_pending());
        if index % 3 > 0 {
            waiting.push(tokio::spawn(async move { pending.await.is_degraded() }));
        }
        sleep(Duration::from_millis(1)).await;
    }
    for task in waiting {
        assert!(task.await.unwrap());
    }
    let took = began.elapsed() - Duration::from_millis(100);
    assert!(took <= DEADLINE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn unrepresentable_deadline_never_expires() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::AnswerAfter(30 * DAY));
    let limiter = Limiter::builder(store).deadline(Duration::MAX).build();
    assert!(!check(&limiter, &ten_a_day()).await.is_degraded());
}

#[test]
fn deadlines_expire_while_another_runtime_is_idle() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (idle, other) = (runtime(), runtime());
    let store = ProgrammableStore::new();
    store.behave(Behavior::Hang);
    let (limiter, limits) = (Limiter::from(store), ten_a_day());
    let mut polled_by_idle = Box::pin(check(&limiter, &limits));
    assert!(idle.block_on(async { poll!(&mut polled_by_idle).is_pending() }));
    assert!(other.block_on(check(&limiter, &limits)).is_degraded());
    drop(idle);
    assert!(other.block_on(check(&limiter, &limits)).is_degraded());
    drop(polled_by_idle);
    assert!(runtime().block_on(check(&limiter, &limits)).is_degraded());
}

#[test]
fn check_on_an_ended_runtime_is_decided_at_once() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.handle().clone();
    drop(runtime);
    let _entered = ended.enter();
    let store = ProgrammableStore::new();
    store.behave(Behavior::Hang);
    let (limiter, limits) = (Limiter::from(store), ten_a_day());
    for _ in 0..2 {
        // A timer of the ended runtime would never fire.
        let decision = check(&limiter, &limits).now_or_never();
        assert!(decision.is_some_and(|decision| decision.is_degraded()));
    }
}

#[tokio::test(start_paused = true)]
async fn answer_within_the_deadline_is_used() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(Behavior::AnswerAfter(DEADLINE - Duration::from_millis(1)));
    let decision = check(&limiter, &ten_a_day()).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 9);
}

#[tokio::test(start_paused = true)]
async fn open_unlimited_counts_nothing_and_closed_sets_retry_after() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(DOWN);
    let limits = ten_a_day();

    let unlimited = limiter
        .clone()
        .failure_strategy(FailureStrategy::OpenUnlimited);
    assert_eq!(count_admitted(&unlimited, &limits).await, 15);
    assert_eq!(check(&unlimited, &limits).await.remaining(), 10);

    let closed = limiter.clone().failure_strategy(FailureStrategy::Closed);
    let decision = check(&closed, &limits).await;
    assert!(decision.is_refused() && decision.is_degraded() && !decision.is_allowed());
    assert_eq!(decision.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!((decision.capacity(), decision.remaining()), (10, 0));

    assert_eq!(
        count_admitted(&limiter, &limits).await,
        10,
        "`OpenUnlimited` and `Closed` count nothing"
    );
    assert!(
        !check(&limiter, &limits).await.is_refused(),
        "a limit denies and does not refuse"
    );
}

#[tokio::test(start_paused = true)]
async fn fallback_replicas_divides_the_limit_among_replicas() {
    for (limit, replicas, each) in [(100, 4, 25), (10, 3, 3), (2, 10, 1), (1, 1, 1)] {
        let store = ProgrammableStore::new();
        store.behave(DOWN);
        let share = NonZeroU32::new(replicas).unwrap();
        let limiter = Limiter::builder(store).fallback_replicas(share).build();
        let limits = Quota::per_day(limit).into();
        let first = check(&limiter, &limits).await;
        assert_eq!(first.remaining(), each - 1, "{limit} over {replicas}");
        assert_eq!(
            1 + count_admitted(&limiter, &limits).await,
            each as usize,
            "{limit} over {replicas}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_charges_all_policies_or_none() {
    let store = ProgrammableStore::new();
    store.behave(DOWN);
    let limiter = Limiter::from(store);
    let limits = Limits::new([
        Policy::new("roomy", Quota::per_day(10)),
        Policy::new("tight", Quota::per_day(2)),
    ])
    .unwrap();
    assert_eq!(count_admitted(&limiter, &limits).await, 2);
    let decision = check(&limiter, &limits).await;
    let remaining: Vec<_> = decision
        .policies()
        .map(|(_, status)| status.remaining())
        .collect();
    assert_eq!(remaining, [8, 0]);
    assert_eq!(decision.policy().name(), "tight");
}

#[tokio::test(start_paused = true)]
async fn hanging_store_does_not_hang_a_reset() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    store.behave(Behavior::Hang);
    let began = Instant::now();
    assert_eq!(
        limiter.reset(&check).await.unwrap_err().kind(),
        StoreErrorKind::TimedOut
    );
    assert_eq!(began.elapsed(), DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn fallback_separates_scopes() {
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
async fn dropped_check_charges_nothing() {
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
async fn remaining_of_a_share_is_what_is_admitted() {
    for (limit, replicas) in [(2, 10), (10, 3), (3, 3), (1, 1), (7, 2)] {
        let store = ProgrammableStore::new();
        store.behave(DOWN);
        let share = NonZeroU32::new(replicas).unwrap();
        let limiter = Limiter::builder(store).fallback_replicas(share).build();
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
fn zero_deadline_panics() {
    let _ = Limiter::builder(ProgrammableStore::new()).deadline(Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn peek_returns_whether_a_cost_fits() {
    let round_trip = Behavior::AnswerAfter(Duration::from_millis(5));
    for behavior in [Behavior::Answer, round_trip, DOWN] {
        let store = ProgrammableStore::new();
        let limiter = Limiter::from(store.clone());
        let alice = alice();
        let limits = Limits::new([
            Policy::new("ten", Quota::per_day(10)),
            Policy::new(
                "hundred",
                Quota::fixed_window(100, Quota::per_day(1).period()),
            ),
        ])
        .unwrap();
        let check = Check::new(&alice, &limits);
        limiter.check(&check.cost(7)).await;
        store.behave(behavior);
        for _ in 0..2 {
            for (cost, fits) in [(0, true), (3, true), (4, false), (11, false), (101, false)] {
                let decision = limiter.peek(&check.cost(cost)).await;
                assert_eq!(decision.is_allowed(), fits, "{behavior:?}, cost {cost}");
                assert_eq!(decision.is_degraded(), behavior == DOWN);
                let remaining = decision.policies().map(|(_, status)| status.remaining());
                assert_eq!(remaining.collect::<Vec<_>>(), [3, 93], "cost {cost}");
                let wait = decision.retry_after();
                assert_eq!(wait.is_none(), cost > 10, "cost {cost}");
                assert_eq!(wait == Some(Duration::ZERO), fits, "cost {cost}");
            }
        }
        assert!(limiter.check(&check.cost(3)).await.is_allowed());
        assert!(!limiter.peek(&check).await.is_allowed(), "{behavior:?}");
        assert!(
            limiter.peek(&check.cost(0)).await.is_allowed(),
            "{behavior:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn separate_fallback_is_not_evicted_by_other_limiters() {
    let store = ProgrammableStore::new();
    store.behave(DOWN);
    let limiter = Limiter::builder(store).fallback_capacity(1_000).build();
    let (tenant, limits) = (limiter.clone().separate_fallback(1_000), ten_a_day());
    assert_eq!(count_admitted(&tenant, &limits).await, 10);
    assert_eq!(
        count_admitted(&limiter, &limits).await,
        10,
        "its fallback is separate"
    );
    // Exhausted entries, which are evicted last.
    for number in 0..5_000 {
        let other = Identity::user(&number.to_string());
        limiter.check(&Check::new(&other, &limits).cost(10)).await;
    }
    assert!(
        check(&limiter, &limits).await.is_allowed(),
        "the entry was evicted"
    );
    assert!(!check(&tenant, &limits).await.is_allowed());
}
