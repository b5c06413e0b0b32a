//! What was counted before the store went away holds while it is, and what was counted meanwhile
//! holds when it is back: nothing is lost, nothing counts twice.
//!
//! All in virtual time.

#[path = "support/limiter.rs"]
mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::sleep;
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{Check, Checked, Clock, Limiter, Limits, LocalStore, Quota, Store, StoreErrorKind};

use support::{DAY, DEADLINE, DOWN, PROBED, admitted, alice, check, open_breaker, ten_a_day};

#[tokio::test(start_paused = true)]
async fn open_limits_from_what_the_last_shared_decision_left() {
    // The server's clock need not agree with ours.
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
        sleep(PROBED).await;
        for _ in 0..7 {
            assert!(!check(&limiter, &limits).await.is_degraded());
        }
        store.behave(DOWN);
        assert_eq!(admitted(&limiter, &limits).await, 3, "{quota}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_gives_nobody_who_asked_meanwhile_a_fresh_bucket() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    assert_eq!(admitted(&limiter, &limits).await, 10);
    store.behave(DOWN);
    open_breaker(&limiter, &store).await;
    let denied = check(&limiter, &limits).await;
    assert!(denied.is_degraded() && !denied.is_allowed());

    store.behave(Behavior::Answer);
    let lost = store.reset(&Check::new(&alice(), &limits)).wait().await;
    lost.unwrap();
    sleep(PROBED).await;
    let denied = check(&limiter, &limits).await;
    assert!(!denied.is_degraded() && !denied.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn what_the_fallback_counted_is_joined_and_not_added() {
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
        // The last replica knows of all three, the first of its own alone.
        store.behave(DOWN);
        for (replica, more) in replicas.iter().zip([1, 2, 4]) {
            for _ in 0..more {
                assert!(check(replica, &limits).await.is_degraded());
            }
            open_breaker(replica, &store).await;
        }
        store.behave(Behavior::Answer);
        sleep(PROBED).await;
        // 2, 4 and 7 as the replicas have it: 7 it is, and each check adds itself, once.
        for (index, left) in [(2, 2), (1, 1), (0, 0)] {
            let decision = check(&replicas[index], &limits).await;
            assert!(!decision.is_degraded());
            assert_eq!(decision.remaining(), left, "{quota}");
        }
        assert!(!check(&replicas[1], &limits).await.is_allowed(), "{quota}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_fallback_counted_is_kept_whatever_the_check_that_carries_it() {
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
            "a look, a denial, one that never fits"
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
async fn a_check_that_timed_out_after_it_was_charged_is_charged_once() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    assert!(check(&limiter, &ten_a_day()).await.is_degraded());
    store.behave(Behavior::Answer);
    let decision = check(&limiter, &ten_a_day()).await;
    assert!(!decision.is_degraded());
    assert_eq!(
        decision.remaining(),
        8,
        "one that timed out, one that did not"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_charged_here_while_a_check_was_under_way_is_carried_by_the_next() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    store.behave(Behavior::AnswerAfter(Duration::from_millis(20)));
    let alice = alice();
    let Checked::Pending(under_way) = limiter.check(&Check::new(&alice, &limits)) else {
        panic!("it takes 20 ms");
    };
    store.behave(DOWN);
    for _ in 0..5 {
        assert!(check(&limiter, &limits).await.is_degraded());
    }
    store.behave(Behavior::Answer);
    assert_eq!(under_way.await.remaining(), 9, "it was decided before");
    assert_eq!(
        check(&limiter, &limits).await.remaining(),
        4,
        "five here, and this one"
    );
    assert_eq!(
        check(&limiter, &limits).await.remaining(),
        3,
        "carried once"
    );
}

#[tokio::test(start_paused = true)]
async fn an_older_answer_does_not_take_back_what_a_newer_one_told() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    let check = Check::new(&alice, &limits);
    store.behave(Behavior::AnswerAfter(Duration::from_millis(20)));
    let Checked::Pending(older) = limiter.check(&check) else {
        panic!("it takes 20 ms");
    };
    store.behave(Behavior::Answer);
    assert_eq!(limiter.check(&check.cost(5)).await.remaining(), 4);
    assert_eq!(older.await.remaining(), 9);
    store.behave(DOWN);
    assert_eq!(limiter.peek(&check).await.remaining(), 4);
}

#[tokio::test(start_paused = true)]
async fn peeks_and_resets_use_the_fallback_meanwhile() {
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
        "the store has not forgotten"
    );
    assert_eq!(left().await, 10);

    store.behave(Behavior::Answer);
    sleep(PROBED).await;
    assert_eq!(left().await, 4);
    limiter.reset(&check).await.unwrap();
    assert_eq!(left().await, 10);
}

/// One slow reply, with `fallback_share(10)`: the store has charged 1, the user was admitted once.
#[tokio::test(start_paused = true)]
async fn one_slow_reply_costs_one_request_whatever_the_share() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::builder(store.clone())
        .fallback_share(NonZeroU32::new(10).unwrap())
        .build();
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    assert!(check(&limiter, &ten_a_day()).await.is_allowed());
    store.behave(Behavior::Answer);
    let second = check(&limiter, &ten_a_day()).await;
    assert!(!second.is_degraded());
    assert!(
        second.is_allowed(),
        "one of ten was used, and this is the second"
    );
    assert_eq!(second.remaining(), 8);
}

/// A customer is reset by another replica; this one has seen so; then one reply is slow.
#[tokio::test(start_paused = true)]
async fn a_slow_reply_does_not_bring_back_what_was_reset_elsewhere() {
    let store = ProgrammableStore::new();
    let [here, there] = [(); 2].map(|()| Limiter::from(store.clone()));
    let (alice, limits) = (alice(), ten_a_day());
    let one = Check::new(&alice, &limits);
    assert_eq!(here.check(&one.cost(8)).await.remaining(), 2);
    there.reset(&one).await.unwrap();
    assert_eq!(
        here.check(&one).await.remaining(),
        9,
        "the reset is seen here"
    );

    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    assert!(here.check(&one).await.is_allowed());
    store.behave(Behavior::Answer);
    let third = here.check(&one).await;
    assert_eq!(third.remaining(), 7, "three since the reset");
}

/// The same within one process: an answer from before the reset arrives after it.
#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_reset_does_not_outlive_it() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    let one = Check::new(&alice, &limits);
    store.behave(Behavior::AnswerAfter(Duration::from_millis(20)));
    let Checked::Pending(old) = limiter.check(&one.cost(8)) else {
        panic!("it takes 20 ms");
    };
    store.behave(Behavior::Answer);
    limiter.reset(&one).await.unwrap();
    old.await;
    assert_eq!(limiter.check(&one).await.remaining(), 9);
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    limiter.check(&one).await;
    store.behave(Behavior::Answer);
    assert_eq!(
        limiter.check(&one).await.remaining(),
        7,
        "three since the reset"
    );
}

/// The server's windows begin at other moments than ours, since its clock is ahead by hours.
#[tokio::test(start_paused = true)]
async fn a_window_that_ended_by_the_servers_clock_does_not_come_back_by_ours() {
    let clock = ManualClock::new();
    let store = ProgrammableStore::with_store(LocalStore::new().clock(clock.clone()));
    let limiter = Limiter::from(store.clone());
    let limits = Limits::from(Quota::fixed_window(10, 10 * DAY));
    let alice = alice();
    let one = Check::new(&alice, &limits);
    // A minute before the server's window ends.
    let window = 10 * 86_400_000_000;
    clock.set((clock.now() / window + 1) * window - 60_000_000);
    assert_eq!(limiter.check(&one.cost(8)).await.remaining(), 2);
    clock.set(clock.now() + 60_000_000);
    assert_eq!(limiter.check(&one).await.remaining(), 9, "a new window");
    store.behave(Behavior::AnswerAfter(2 * DEADLINE));
    limiter.check(&one).await;
    store.behave(Behavior::Answer);
    assert_eq!(
        limiter.check(&one).await.remaining(),
        7,
        "three in this window"
    );
}
