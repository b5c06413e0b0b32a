//! When the store fails, every request is answered within the deadline, by the failure strategy;
//! when it is back, nothing that was counted meanwhile is lost or counted twice.
//!
//! All in virtual time.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{
    Check, Checked, Decision, FailureStrategy, Identity, Limiter, Limits, LocalStore, Policy,
    Quota, Scope, StoreErrorKind,
};

const DEADLINE: Duration = Duration::from_millis(50);
const DOWN: Behavior = Behavior::Fail(StoreErrorKind::Unavailable);
/// Nothing is regained while a test runs.
const DAY: Duration = Duration::from_secs(86_400);

/// Longer than any wait between probes, and a deadline.
const PROBED: Duration = Duration::from_millis(1_100);

fn alice() -> Identity {
    Identity::user("alice")
}

fn ten_a_day() -> Limits {
    Quota::per_day(10).into()
}

async fn check(limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    check_as(&alice(), limiter, limits).await
}

async fn check_as(who: &Identity, limiter: &Limiter, limits: &Limits) -> Decision<'static> {
    limiter.check(&Check::new(who, limits)).await.into_owned()
}

/// Fails checks until the breaker is open.
async fn open_breaker(limiter: &Limiter, store: &ProgrammableStore) {
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

async fn admitted(limiter: &Limiter, limits: &Limits) -> usize {
    let mut admitted = 0;
    for _ in 0..limits.policies()[0].quota().capacity() + 5 {
        admitted += usize::from(check(limiter, limits).await.is_allowed());
    }
    admitted
}

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
async fn open_limits_from_what_the_last_shared_decision_left() {
    // The server's clock need not agree with ours.
    let clock = ManualClock::new();
    let store = ProgrammableStore::counting_in(LocalStore::new().clock(clock));
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
async fn once_the_breaker_is_open_nobody_waits_and_the_store_is_left_alone() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    store.behave(Behavior::Hang);
    for failure in 1..=3 {
        let began = Instant::now();
        assert!(check(&limiter, &limits).await.is_degraded());
        assert_eq!(began.elapsed(), DEADLINE, "failure {failure} waits");
        sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..1_000 {
        let (alice, check) = (alice(), ten_a_day());
        let answer = limiter.check(&Check::new(&alice, &check));
        assert!(matches!(answer, Checked::Ready(decision) if decision.is_degraded()));
    }
    assert_eq!(store.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn checks_that_fail_together_are_one_failure() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(Behavior::Hang);
    for round in 1..=3 {
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let limiter = limiter.clone();
            tasks.spawn(async move { check(&limiter, &ten_a_day()).await });
        }
        assert!(tasks.join_all().await.iter().all(Decision::is_degraded));
        assert_eq!(
            store.calls(),
            100 * round,
            "the breaker is closed in round {round}"
        );
        sleep(Duration::from_millis(1)).await;
    }
    check(&limiter, &ten_a_day()).await;
    assert_eq!(store.calls(), 300, "the breaker is open");
}

#[tokio::test(start_paused = true)]
async fn one_probe_at_a_time_finds_the_store_back() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    store.behave(Behavior::Hang);
    open_breaker(&limiter, &store).await;
    let calls = store.calls();

    sleep(Duration::from_secs(10)).await;
    // Half a second to a second between them, sooner at first.
    assert!(
        (9..=25).contains(&store.probes()),
        "{} probes in 10 s",
        store.probes()
    );
    assert_eq!(store.calls(), calls, "no request waits");

    store.behave(Behavior::Answer);
    sleep(PROBED).await;
    let probes = store.probes();
    assert!(
        !check(&limiter, &limits).await.is_degraded(),
        "back by itself"
    );
    sleep(Duration::from_secs(10)).await;
    assert_eq!(store.probes(), probes, "no probe without need");
}

#[tokio::test(start_paused = true)]
async fn what_the_fallback_counted_is_joined_and_not_added() {
    for quota in [
        Quota::per_day(10),
        Quota::sliding_window(10, 3_650 * DAY),
        Quota::fixed_window(10, 3_650 * DAY),
    ] {
        let clock = ManualClock::new();
        let store = ProgrammableStore::counting_in(LocalStore::new().clock(clock));
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
async fn each_lane_has_its_own_breaker() {
    let lane_of = |check: &Check<'_>| usize::from(check.identity.kind() == "ip");
    let store = ProgrammableStore::with_lanes(LocalStore::new(), lane_of);
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    store.behave_in(1, Behavior::Hang);
    let address = Identity::ip("203.0.113.7".parse().unwrap());
    for _ in 0..5 {
        assert!(check_as(&address, &limiter, &limits).await.is_degraded());
        assert!(
            !check(&limiter, &limits).await.is_degraded(),
            "the other lane is well"
        );
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        store.calls(),
        3 + 5,
        "the dead lane's breaker is open, the other's is not"
    );
    store.behave_in(1, Behavior::Answer);
    sleep(PROBED).await;
    assert!(!check_as(&address, &limiter, &limits).await.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_store_does_not_open_the_breaker() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    for behavior in [
        Behavior::Fail(StoreErrorKind::Overloaded),
        Behavior::Fail(StoreErrorKind::Unusable),
        Behavior::Lie,
    ] {
        store.behave(behavior);
        let calls = store.calls();
        for _ in 0..20 {
            assert!(
                check(&limiter, &ten_a_day()).await.is_degraded(),
                "{behavior:?}"
            );
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(
            store.calls(),
            calls + 20,
            "{behavior:?}: the breaker is closed"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn answers_from_memory_prove_nothing() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    for _ in 0..3 {
        store.behave(DOWN);
        check(&limiter, &ten_a_day()).await;
        store.behave(Behavior::Remember);
        assert!(!check(&limiter, &ten_a_day()).await.is_refused());
        sleep(Duration::from_millis(1)).await;
    }
    let calls = store.calls();
    assert!(check(&limiter, &ten_a_day()).await.is_degraded());
    assert_eq!(
        store.calls(),
        calls,
        "three failures without an answer between them opened it"
    );
}

#[tokio::test(start_paused = true)]
async fn looks_refunds_and_resets_go_on_in_the_fallback() {
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
    let error = limiter.refund(&check.cost(3)).await.unwrap_err();
    assert_eq!(
        error.kind(),
        StoreErrorKind::Unavailable,
        "the store has not given back"
    );
    assert_eq!(left().await, 4, "the fallback has");
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
async fn probing_ends_with_the_limiter() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(DOWN);
    open_breaker(&limiter, &store).await;
    drop(limiter);
    sleep(PROBED).await;
    let probes = store.probes();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(store.probes(), probes);
}

#[test]
fn a_limiter_outlives_the_runtime_that_probed() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    store.behave(DOWN);
    runtime().block_on(open_breaker(&limiter, &store));
    store.behave(Behavior::Answer);
    let decision = runtime().block_on(check(&limiter, &ten_a_day()));
    assert!(
        !decision.is_degraded(),
        "nobody probes any more, so a request asks"
    );
}

#[test]
fn without_a_runtime_failures_are_answered_too() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(DOWN);
    let (alice, limits) = (alice(), ten_a_day());
    for _ in 0..10 {
        let answer = limiter.check(&Check::new(&alice, &limits));
        assert!(matches!(answer, Checked::Ready(decision) if decision.is_degraded()));
    }
    store.behave(Behavior::Answer);
    let answer = limiter.check(&Check::new(&alice, &limits));
    assert!(matches!(answer, Checked::Ready(decision) if !decision.is_degraded()));
}

#[tokio::test(start_paused = true)]
async fn checks_that_are_given_up_early_open_the_breaker_too() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(Behavior::Hang);
    let impatience = DEADLINE - Duration::from_millis(10);
    let mut waited = 0;
    for _ in 0..20 {
        let given_up = timeout(impatience, check(&limiter, &ten_a_day())).await;
        waited += usize::from(given_up.is_err());
        sleep(Duration::from_millis(1)).await;
    }
    // Two or three of them in each of three deadlines.
    assert!(waited <= 9, "{waited} waited in vain");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_is_given_up_however_long_the_deadline() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::builder(store.clone())
        .deadline(Duration::from_secs(3_600))
        .build();
    store.behave(DOWN);
    open_breaker(&limiter, &store).await;
    store.behave(Behavior::Hang);
    sleep(Duration::from_secs(1)).await;
    store.behave(Behavior::Answer);
    sleep(Duration::from_secs(2)).await;
    assert!(!check(&limiter, &ten_a_day()).await.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn a_probe_answered_from_memory_proves_nothing() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(DOWN);
    open_breaker(&limiter, &store).await;
    store.behave(Behavior::Remember);
    sleep(Duration::from_secs(5)).await;
    let calls = store.calls();
    assert!(check(&limiter, &ten_a_day()).await.is_degraded());
    assert_eq!(store.calls(), calls, "the breaker is open");
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
async fn a_refund_of_what_the_store_counted_is_not_multiplied_by_the_replicas() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::builder(store.clone())
        .fallback_share(NonZeroU32::new(10).unwrap())
        .build();
    let (alice, limits) = (alice(), Limits::from(Quota::per_day(100)));
    let check = Check::new(&alice, &limits);
    limiter.check(&check.cost(80)).await;
    limiter.refund(&check.cost(10)).await.unwrap();
    store.behave(DOWN);
    assert_eq!(limiter.peek(&check).await.remaining(), 3, "a tenth of 30");

    limiter.check(&check).await;
    limiter.refund(&check).await.unwrap_err();
    assert_eq!(
        limiter.peek(&check).await.remaining(),
        3,
        "as much as was charged"
    );
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
fn a_runtime_that_only_runs_for_its_checks_finds_the_store_back() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    store.behave(DOWN);
    runtime.block_on(open_breaker(&limiter, &store));
    store.behave(Behavior::Answer);
    // Time passes, but nobody runs the task that probes.
    runtime.block_on(tokio::time::advance(Duration::from_secs(3)));
    let probes = store.probes();
    let decision = runtime.block_on(check(&limiter, &ten_a_day()));
    assert!(!decision.is_degraded() || store.probes() > probes);
    assert!(
        !runtime
            .block_on(check(&limiter, &ten_a_day()))
            .is_degraded()
    );
}

#[test]
#[should_panic(expected = "a deadline of zero leaves a store no time to answer")]
fn a_deadline_of_zero_is_refused() {
    let _ = Limiter::builder(ProgrammableStore::new()).deadline(Duration::ZERO);
}
