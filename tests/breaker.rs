//! While the store is away nobody waits for it, and it is found back by itself.
//!
//! All in virtual time.

#[path = "support/limiter.rs"]
mod support;

use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{
    Check, Checked, Decision, Identity, Limiter, Limits, LocalStore, Quota, StoreErrorKind,
};

use support::{DEADLINE, DOWN, PROBED, alice, check, check_as, open_breaker, ten_a_day};

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
    for _ in 0..40 {
        let given_up = timeout(impatience, check(&limiter, &ten_a_day())).await;
        waited += usize::from(given_up.is_err());
        sleep(Duration::from_millis(1)).await;
    }
    // A few in each of three deadlines, and as many until a probe has found out why.
    assert!(waited <= 15, "{waited} waited in vain");
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

/// The asker's own patience, which may come from a client's grpc-timeout, says nothing of the store.
#[tokio::test(start_paused = true)]
async fn impatient_askers_do_not_open_the_breaker_for_everybody() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    // A healthy store, 5 ms away.
    store.behave(Behavior::AnswerAfter(Duration::from_millis(5)));
    let mut impatient = Check::new(&alice, &limits);
    impatient.time_left = Duration::from_millis(1);
    for _ in 0..3 {
        limiter.check(&impatient).await;
        sleep(Duration::from_millis(1)).await;
    }
    let bob = Identity::user("bob");
    let decision = limiter.check(&Check::new(&bob, &limits)).await;
    assert!(!decision.is_degraded(), "the store answers in 5 of 50 ms");
}

/// Clients that hang up at once, one now and then, before a healthy store.
#[tokio::test(start_paused = true)]
async fn clients_that_hang_up_do_not_open_the_breaker_of_a_healthy_store() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), Limits::from(Quota::per_day(1_000)));
    store.behave(Behavior::AnswerAfter(Duration::from_millis(5)));
    for _ in 0..6 {
        sleep(Duration::from_millis(100)).await;
        let mut hung_up = Box::pin(limiter.check(&Check::new(&alice, &limits)).into_future());
        assert!(hung_up.as_mut().now_or_never().is_none());
        drop(hung_up);
    }
    let bob = Identity::user("bob");
    let decision = limiter.check(&Check::new(&bob, &limits)).await;
    assert!(!decision.is_degraded(), "the store answers in 5 of 50 ms");
}
