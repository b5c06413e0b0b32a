//! The fallback continues from the last decision of the store, and the store from what the fallback
//! has counted: no charge is lost or counted twice.
//!
//! All tests run in virtual time.

#[path = "support/limiter.rs"]
mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::sleep;
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{Check, Checked, Clock, Limiter, Limits, LocalStore, Quota, Store, StoreErrorKind};

use support::{
    DAY, DEADLINE, DOWN, PROBE_INTERVAL, alice, check, count_admitted, open_breaker, ten_a_day,
};

#[tokio::test(start_paused = true)]
async fn fallback_continues_from_the_last_store_decision() {
    // The clock of the store differs from that of the limiter.
    let clock = ManualClock::new();
    let store = ProgrammableStore::with_store(LocalStore::new().clock(clock));
    let limiter = Limiter::from(store.clone());
    for quota in [
        Quota::per_day(10),
        Quota::sliding_window(10, 3_650 * DAY),
        Quota::fixed_window(10, 3_650 * DAY),
    ] {
        let limits = quota.into();
        store.behave(Behavior::Answer);
        sleep(PROBE_INTERVAL).await;
        for _ in 0..7 {
            assert!(!check(&limiter, &limits).await.is_degraded());
        }
        store.behave(DOWN);
        assert_eq!(count_admitted(&limiter, &limits).await, 3, "{quota}");
    }
}

#[tokio::test(start_paused = true)]
async fn exhausted_quota_survives_data_loss_of_the_store() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    assert_eq!(count_admitted(&limiter, &limits).await, 10);
    store.behave(DOWN);
    open_breaker(&limiter, &store).await;
    let denied = check(&limiter, &limits).await;
    assert!(denied.is_degraded() && !denied.is_allowed());

    store.behave(Behavior::Answer);
    // The store loses its data.
    let reset = store.reset(&Check::new(&alice(), &limits)).wait().await;
    reset.unwrap();
    sleep(PROBE_INTERVAL).await;
    let denied = check(&limiter, &limits).await;
    assert!(!denied.is_degraded() && !denied.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn fallback_counts_are_joined_and_not_added() {
    for quota in [
        Quota::per_day(10),
        Quota::sliding_window(10, 3_650 * DAY),
        Quota::fixed_window(10, 3_650 * DAY),
    ] {
        let clock = ManualClock::new();
        let store = ProgrammableStore::with_store(LocalStore::new().clock(clock));
        let replicas = [(); 3].map(|()| Limiter::from(store.clone()));
        let limits = quota.into();
        for replica in &replicas {
            check(replica, &limits).await;
        }
        // The last replica has seen all three charges, the first only its own.
        store.behave(DOWN);
        for (replica, more) in replicas.iter().zip([1, 2, 4]) {
            for _ in 0..more {
                assert!(check(replica, &limits).await.is_degraded());
            }
            open_breaker(replica, &store).await;
        }
        store.behave(Behavior::Answer);
        sleep(PROBE_INTERVAL).await;
        // The replicas carry 2, 4 and 7, which are joined to 7. Each check then charges one.
        for (index, left) in [(2, 2), (1, 1), (0, 0)] {
            let decision = check(&replicas[index], &limits).await;
            assert!(!decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{quota}");
        }
        assert!(!check(&replicas[1], &limits).await.is_allowed(), "{quota}");
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_counts_are_kept_whatever_check_carries_them() {
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    for cost in [0, 5, 11] {
        let store = ProgrammableStore::new();
        let limiter = Limiter::from(store.clone());
        store.behave(DOWN);
        limiter.check(&check.cost(8)).await;
        store.behave(Behavior::Answer);
        let decision = limiter.check(&check.cost(cost)).await;
        assert_eq!(
            decision.is_allowed(),
            cost == 0,
            "cost 0 is a peek, 5 is denied, 11 never fits"
        );
        let other_replica = Limiter::from(store.clone());
        assert_eq!(
            other_replica.peek(&check).await.remaining(),
            2,
            "cost {cost}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn check_that_timed_out_is_charged_once() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    assert!(check(&limiter, &ten_a_day()).await.is_degraded());
    store.behave(Behavior::Answer);
    let decision = check(&limiter, &ten_a_day()).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 8, "two checks were charged once each");
}

#[tokio::test(start_paused = true)]
async fn next_check_carries_charges_made_while_pending() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    store.behave(Behavior::AnswerAfter(Duration::from_millis(20)));
    let alice = alice();
    let Checked::Pending(pending) = limiter.check(&Check::new(&alice, &limits)) else {
        panic!("the answer takes 20 ms");
    };
    store.behave(DOWN);
    for _ in 0..5 {
        assert!(check(&limiter, &limits).await.is_degraded());
    }
    store.behave(Behavior::Answer);
    assert_eq!(
        pending.await.remaining(),
        9,
        "the store decided before the fallback charged"
    );
    assert_eq!(
        check(&limiter, &limits).await.remaining(),
        4,
        "five charges of the fallback, and this check"
    );
    assert_eq!(
        check(&limiter, &limits).await.remaining(),
        3,
        "the charges are carried once"
    );
}

#[tokio::test(start_paused = true)]
async fn late_answer_does_not_replace_a_newer_one() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    store.behave(Behavior::AnswerAfter(Duration::from_millis(20)));
    let Checked::Pending(older) = limiter.check(&check) else {
        panic!("the answer takes 20 ms");
    };
    store.behave(Behavior::Answer);
    assert_eq!(limiter.check(&check.cost(5)).await.remaining(), 4);
    assert_eq!(older.await.remaining(), 9);
    store.behave(DOWN);
    assert_eq!(limiter.peek(&check).await.remaining(), 4);
}

#[tokio::test(start_paused = true)]
async fn peek_and_reset_use_the_fallback_during_outages() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    limiter.check(&check.cost(6)).await;
    store.behave(DOWN);
    open_breaker(&limiter, &store).await;

    let left = async || limiter.peek(&check).await.remaining();
    assert_eq!(left().await, 4);
    limiter.check(&check.cost(3)).await;
    assert_eq!(left().await, 1);
    let error = limiter.reset(&check).await.unwrap_err();
    assert_eq!(
        error.kind(),
        StoreErrorKind::Unavailable,
        "the store was not reset"
    );
    assert_eq!(left().await, 10);

    store.behave(Behavior::Answer);
    sleep(PROBE_INTERVAL).await;
    assert_eq!(left().await, 4);
    limiter.reset(&check).await.unwrap();
    assert_eq!(left().await, 10);
}

/// A check times out after the store has charged 1. The fallback charges it 10 times, for the
/// share.
#[tokio::test(start_paused = true)]
async fn slow_reply_costs_one_request_whatever_the_share() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::builder(store.clone())
        .fallback_replicas(NonZeroU32::new(10).unwrap())
        .build();
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    assert!(check(&limiter, &ten_a_day()).await.is_allowed());
    store.behave(Behavior::Answer);
    let second = check(&limiter, &ten_a_day()).await;
    assert!(!second.is_degraded());
    assert!(second.is_allowed(), "nine of ten are left");
    assert_eq!(second.remaining(), 8);
}

/// Another replica resets the user, this one sees the reset, and then one reply is slow.
#[tokio::test(start_paused = true)]
async fn slow_reply_does_not_undo_another_replicas_reset() {
    let store = ProgrammableStore::new();
    let [limiter, other] = [(); 2].map(|()| Limiter::from(store.clone()));
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    assert_eq!(limiter.check(&check.cost(8)).await.remaining(), 2);
    other.reset(&check).await.unwrap();
    assert_eq!(
        limiter.check(&check).await.remaining(),
        9,
        "the reset is seen"
    );

    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    assert!(limiter.check(&check).await.is_allowed());
    store.behave(Behavior::Answer);
    let last = limiter.check(&check).await;
    assert_eq!(last.remaining(), 7, "three charges since the reset");
}

/// Within one process, an answer from before a reset arrives after it.
#[tokio::test(start_paused = true)]
async fn answer_from_before_a_reset_is_discarded() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    store.behave(Behavior::AnswerAfter(Duration::from_millis(20)));
    let Checked::Pending(old) = limiter.check(&check.cost(8)) else {
        panic!("the answer takes 20 ms");
    };
    store.behave(Behavior::Answer);
    limiter.reset(&check).await.unwrap();
    old.await;
    assert_eq!(limiter.check(&check).await.remaining(), 9);
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    limiter.check(&check).await;
    store.behave(Behavior::Answer);
    assert_eq!(
        limiter.check(&check).await.remaining(),
        7,
        "three charges since the reset"
    );
}

/// The clock of the store is ahead by hours, so its windows begin at other times than the
/// limiter's.
#[tokio::test(start_paused = true)]
async fn window_ended_by_store_clock_does_not_return() {
    let clock = ManualClock::new();
    let store = ProgrammableStore::with_store(LocalStore::new().clock(clock.clone()));
    let limiter = Limiter::from(store.clone());
    let limits = Limits::from(Quota::fixed_window(10, 10 * DAY));
    let alice = alice();
    let check = Check::new(&alice, &limits);
    // A minute before the window of the store ends.
    let window = 10 * 86_400_000_000;
    clock.set((clock.now() / window + 1) * window - 60_000_000);
    assert_eq!(limiter.check(&check.cost(8)).await.remaining(), 2);
    clock.set(clock.now() + 60_000_000);
    assert_eq!(limiter.check(&check).await.remaining(), 9, "a new window");
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    limiter.check(&check).await;
    store.behave(Behavior::Answer);
    assert_eq!(
        limiter.check(&check).await.remaining(),
        7,
        "three charges in this window"
    );
}
