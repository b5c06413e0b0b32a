//! The circuit breaker opens when the store fails, so that no check waits for it, and probes close
//! it again when the store recovers.
//!
//! All tests run in virtual time.

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

use support::{DEADLINE, DOWN, PROBE_INTERVAL, alice, check, check_as, open_breaker, ten_a_day};

#[tokio::test(start_paused = true)]
async fn open_breaker_decides_without_the_store() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    store.behave(Behavior::Hang);
    for failure in 1..=3 {
        let began = Instant::now();
        assert!(check(&limiter, &limits).await.is_degraded());
        assert_eq!(
            began.elapsed(),
            DEADLINE,
            "failure {failure} waits for the deadline"
        );
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
async fn concurrent_failures_count_as_one() {
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
async fn probes_close_the_breaker_when_the_store_recovers() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let limits = ten_a_day();
    store.behave(Behavior::Hang);
    open_breaker(&limiter, &store).await;
    let calls = store.calls();

    sleep(Duration::from_secs(10)).await;
    // The interval is half a second to a second, and shorter at first.
    assert!(
        (9..=25).contains(&store.probes()),
        "{} probes in 10 s",
        store.probes()
    );
    assert_eq!(store.calls(), calls, "no request calls the store");

    store.behave(Behavior::Answer);
    sleep(PROBE_INTERVAL).await;
    let probes = store.probes();
    assert!(
        !check(&limiter, &limits).await.is_degraded(),
        "a probe has closed the breaker"
    );
    sleep(Duration::from_secs(10)).await;
    assert_eq!(store.probes(), probes, "a closed breaker does not probe");
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
            "lane 0 is healthy"
        );
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        store.calls(),
        3 + 5,
        "the breaker of lane 1 is open, that of lane 0 is closed"
    );
    store.behave_in(1, Behavior::Answer);
    sleep(PROBE_INTERVAL).await;
    assert!(!check_as(&address, &limiter, &limits).await.is_degraded());
}

#[tokio::test(start_paused = true)]
async fn errors_unrelated_to_availability_keep_the_breaker_closed() {
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
async fn remembered_answers_reset_no_failure_count() {
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
        "three failures without an answer in between open the breaker"
    );
}

#[tokio::test(start_paused = true)]
async fn probing_ends_with_the_limiter() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(DOWN);
    open_breaker(&limiter, &store).await;
    drop(limiter);
    sleep(PROBE_INTERVAL).await;
    let probes = store.probes();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(store.probes(), probes);
}

#[test]
fn request_probes_after_the_probing_runtime_ended() {
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
        "without a probing task a request calls the store"
    );
}

#[test]
fn failures_without_a_runtime_are_decided_at_once() {
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
async fn checks_dropped_early_open_the_breaker() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    store.behave(Behavior::Hang);
    let patience = DEADLINE - Duration::from_millis(10);
    let mut abandoned = 0;
    for _ in 0..40 {
        let result = timeout(patience, check(&limiter, &ten_a_day())).await;
        abandoned += usize::from(result.is_err());
        sleep(Duration::from_millis(1)).await;
    }
    // A few within each of three deadlines, and as many until a probe has failed.
    assert!(abandoned <= 15, "{abandoned} checks waited");
}

#[tokio::test(start_paused = true)]
async fn hanging_probe_times_out_despite_a_long_deadline() {
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
async fn probe_answered_from_memory_keeps_the_breaker_open() {
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
fn runtime_in_block_on_closes_the_breaker() {
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
    // Time passes while the probing task does not run.
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

/// A shorter `time_left`, which may come from a client's `grpc-timeout`, is no failure of the
/// store.
#[tokio::test(start_paused = true)]
async fn short_time_left_does_not_open_the_breaker() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), ten_a_day());
    // A healthy store with a round trip of 5 ms.
    store.behave(Behavior::AnswerAfter(Duration::from_millis(5)));
    let mut impatient = Check::new(&alice, &limits);
    impatient.time_left = Duration::from_millis(1);
    for _ in 0..3 {
        limiter.check(&impatient).await;
        sleep(Duration::from_millis(1)).await;
    }
    let bob = Identity::user("bob");
    let decision = limiter.check(&Check::new(&bob, &limits)).await;
    assert!(
        !decision.is_degraded(),
        "the store answers within the deadline"
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_checks_of_healthy_store_keep_breaker_closed() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (alice(), Limits::from(Quota::per_day(1_000)));
    store.behave(Behavior::AnswerAfter(Duration::from_millis(5)));
    for _ in 0..6 {
        sleep(Duration::from_millis(100)).await;
        let mut response = Box::pin(limiter.check(&Check::new(&alice, &limits)).into_future());
        assert!(response.as_mut().now_or_never().is_none());
        drop(response);
    }
    let bob = Identity::user("bob");
    let decision = limiter.check(&Check::new(&bob, &limits)).await;
    assert!(
        !decision.is_degraded(),
        "the store answers within the deadline"
    );
}
