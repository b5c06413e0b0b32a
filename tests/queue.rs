//! A queue admits checks ahead of their tokens: each is charged once, at once, and waits for its place.

#[path = "support/virtual_clock.rs"]
mod virtual_clock;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::Instant;
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{
    Check, Decision, FailureStrategy, Identity, Kind, Limiter, Limits, LocalStore, Permit, Policy,
    Quota, StoreErrorKind,
};

use virtual_clock::virtual_store;

const MS: Duration = Duration::from_millis(1);

fn alice() -> Identity {
    Identity::user("alice")
}

/// Ten a second, evenly spaced.
fn spaced(queue: u32) -> Limits {
    Quota::per_second(10).burst(1).queue(queue).into()
}

/// Returns a store that answers at once and a store that answers after a round trip.
fn stores() -> [(ProgrammableStore, Duration); 2] {
    [Duration::ZERO, 5 * MS].map(|round_trip| {
        let store = ProgrammableStore::with_store(virtual_store());
        if !round_trip.is_zero() {
            store.behave(Behavior::AnswerAfter(round_trip));
        }
        (store, round_trip)
    })
}

/// Asserts that `elapsed` is `expected`, but for the resolution of Tokio's timer.
#[track_caller]
fn assert_elapsed(elapsed: Duration, expected: Duration) {
    let late = elapsed.checked_sub(expected);
    let is_in_time = late.is_some_and(|late| late <= 2 * MS);
    assert!(is_in_time, "{elapsed:?} in place of {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn thousand_callers_go_on_evenly_spaced() {
    for (store, round_trip) in stores() {
        let (limiter, alice, limits) = (Limiter::from(store.clone()), alice(), spaced(1_000));
        let start = Instant::now();
        let callers = (0..1_000).map(|_| {
            let acquired = limiter.acquire(&Check::new(&alice, &limits));
            acquired.map(|permit| (permit.unwrap().decision().delay(), start.elapsed()))
        });
        let callers: Vec<_> = join_all(callers).await;
        for (place, (delay, elapsed)) in callers.into_iter().enumerate() {
            assert_eq!(delay, 100 * MS * place as u32);
            assert_elapsed(elapsed, delay + round_trip);
        }
        assert_eq!(store.calls(), 1_000, "one round trip for each caller");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_caller_moves_no_other() {
    for (store, round_trip) in stores() {
        let (limiter, alice, limits) = (Limiter::from(store.clone()), alice(), spaced(10));
        let start = Instant::now();
        let spawn = |_| tokio::spawn(limiter.acquire(&Check::new(&alice, &limits)));
        let [_, second, third, fourth] = [0, 1, 2, 3].map(spawn);
        tokio::time::sleep(50 * MS).await;
        second.abort();
        third.abort();
        drop(fourth.await.unwrap().unwrap());
        assert_elapsed(start.elapsed(), 300 * MS + round_trip);
        drop(limiter.acquire(&Check::new(&alice, &limits)).await.unwrap());
        assert_elapsed(start.elapsed(), 400 * MS + round_trip);
    }
}

#[tokio::test(start_paused = true)]
async fn delay_counts_from_the_decision() {
    let (limiter, alice, limits) = (Limiter::from(virtual_store()), alice(), spaced(10));
    let start = Instant::now();
    drop(limiter.acquire(&Check::new(&alice, &limits)).await.unwrap());
    let second = limiter.acquire(&Check::new(&alice, &limits));
    tokio::time::sleep(60 * MS).await;
    let permit = second.await.unwrap();
    assert_elapsed(start.elapsed(), 100 * MS);
    // The queue is empty after the wait, so the bucket is full after one more token.
    assert_eq!(permit.decision().reset_after(), 100 * MS);
}

#[tokio::test]
async fn check_queues_only_within_its_maximum_wait() {
    let clock = ManualClock::new();
    let limiter = Limiter::from(LocalStore::new().clock(clock.clone()));
    let (alice, limits) = (alice(), spaced(5));
    let check = Check::new(&alice, &limits);
    let decide = async |check: Check<'_>| limiter.check(&check).await.into_owned();

    assert!(decide(check).await.is_allowed());
    let denied = decide(check).await;
    assert_eq!(denied.retry_after(), Some(100 * MS));
    for place in 1..=3 {
        let queued = decide(check.max_wait(Duration::MAX)).await;
        assert_eq!(
            (queued.is_allowed(), queued.delay()),
            (true, 100 * MS * place)
        );
        assert_eq!((queued.capacity(), queued.remaining()), (1, 0));
        assert_eq!(queued.retry_after(), Some(Duration::ZERO));
    }

    // The fourth place is free in 400 ms, so 150 ms are enough in 250 ms.
    let short = check.max_wait(150 * MS);
    assert_eq!(decide(short).await.retry_after(), Some(250 * MS));
    clock.advance(250 * MS - Duration::from_micros(1));
    let denied = decide(short).await;
    assert_eq!(denied.retry_after(), Some(Duration::from_micros(1)));
    assert_eq!(denied.delay(), Duration::ZERO);
    clock.advance(Duration::from_micros(1));
    assert_eq!(decide(short).await.delay(), 150 * MS);
}

#[tokio::test]
async fn full_queue_denies_until_a_place_is_free() {
    let clock = ManualClock::new();
    let limiter = Limiter::from(LocalStore::new().clock(clock.clone()));
    let (alice, limits) = (
        alice(),
        Limits::from(Quota::per_second(3).burst(2).queue(2)),
    );
    let check = Check::new(&alice, &limits).max_wait(Duration::MAX);
    for delay in [0, 0, 333_334, 666_667] {
        let decision = limiter.check(&check).await;
        assert_eq!(decision.delay(), Duration::from_micros(delay));
    }
    let wait = limiter.check(&check).await.retry_after();
    assert_eq!(wait, Some(Duration::from_micros(333_334)));
    clock.advance(Duration::from_micros(333_334));
    let decision = limiter.check(&check).await;
    assert_eq!(decision.delay(), Duration::from_micros(666_666));

    // A cost above the burst never fits, however long the caller waits.
    let decision = limiter.check(&check.cost(3)).await;
    assert_eq!(
        (decision.is_allowed(), decision.retry_after()),
        (false, None)
    );
}

#[tokio::test]
async fn peek_returns_the_delay_without_a_charge() {
    let limiter = Limiter::from(LocalStore::new().clock(ManualClock::new()));
    let (alice, limits) = (alice(), spaced(2));
    let check = Check::new(&alice, &limits);
    let waiting = check.max_wait(Duration::MAX);
    for place in 0..=2 {
        for _ in 0..2 {
            let peeked = limiter.peek(&waiting).await;
            assert_eq!(
                (peeked.is_allowed(), peeked.delay()),
                (true, 100 * MS * place)
            );
            assert_eq!(limiter.peek(&check).await.is_allowed(), place == 0);
        }
        assert!(limiter.check(&waiting).await.is_allowed());
    }
    let full = limiter.peek(&waiting).await;
    assert_eq!(full.retry_after(), Some(100 * MS));
    assert_eq!(limiter.peek(&waiting.cost(0)).await.delay(), Duration::ZERO);
}

#[tokio::test]
async fn denial_by_another_policy_takes_no_place() {
    let limiter = Limiter::from(LocalStore::new().clock(ManualClock::new()));
    let alice = alice();
    let queue = Policy::new("queue", Quota::per_second(10).burst(1).queue(5));
    let daily = Policy::new("daily", Quota::fixed_window(2, Duration::from_secs(86_400)));
    let limits = Limits::new([daily, queue]).unwrap();
    let check = Check::new(&alice, &limits).max_wait(Duration::MAX);
    for delay in [0, 100] {
        assert_eq!(limiter.check(&check).await.delay(), delay * MS);
    }
    for _ in 0..2 {
        let denied = limiter.check(&check).await;
        assert_eq!(
            (denied.is_allowed(), denied.delay()),
            (false, Duration::ZERO)
        );
        assert_eq!(denied.policy().name(), "daily");
    }
    let queue = Limits::new([limits.policies()[1].clone()]).unwrap();
    let next = Check::new(&alice, &queue).max_wait(Duration::MAX);
    assert_eq!(limiter.check(&next).await.delay(), 200 * MS);
}

#[tokio::test]
async fn users_share_the_queue_of_their_organisation() {
    const ORG: Kind = Kind::new("org");
    let limiter = Limiter::from(LocalStore::new().clock(ManualClock::new()));
    let queue = Policy::new("org", Quota::per_second(10).burst(1).queue(5)).per(&ORG);
    let limits = Limits::new([Policy::new("user", Quota::per_day(2)), queue]).unwrap();
    let acme = Identity::new(&ORG, "acme");
    let users = ["alice", "bob"].map(|user| Identity::user(user).within(acme.clone()).unwrap());
    for (turn, user) in users.iter().cycle().take(4).enumerate() {
        let check = Check::new(user, &limits).max_wait(Duration::MAX);
        assert_eq!(limiter.check(&check).await.delay(), 100 * MS * turn as u32);
    }
    let check = Check::new(&users[0], &limits).max_wait(Duration::MAX);
    assert_eq!(limiter.check(&check).await.policy().name(), "user");
}

#[tokio::test(start_paused = true)]
async fn acquire_is_denied_by_a_full_queue() {
    for (store, _) in stores() {
        let (limiter, alice, limits) = (Limiter::from(store), alice(), spaced(1));
        let check = Check::new(&alice, &limits);
        let _first = limiter.acquire(&check).await.unwrap();
        let second = limiter.acquire(&check);
        let third = limiter.acquire(&check).await.unwrap_err();
        assert!(!third.decision().is_refused());
        assert!(third.decision().retry_after() > Some(Duration::ZERO));
        let impatient = limiter.acquire(&check.max_wait(Duration::ZERO)).await;
        assert!(impatient.is_err());
        drop(second.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_never_waits() {
    let limiter = Limiter::from(virtual_store()).shadow(true);
    let (alice, limits) = (alice(), spaced(1));
    let start = Instant::now();
    let mut decisions = Vec::new();
    for _ in 0..3 {
        let permit = limiter.acquire(&Check::new(&alice, &limits)).await;
        let decision: Decision = permit.unwrap().decision().clone();
        decisions.push((decision.is_allowed(), decision.delay()));
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    let zero = Duration::ZERO;
    assert_eq!(decisions, [(true, zero), (true, 100 * MS), (false, zero)]);
}

#[tokio::test(start_paused = true)]
async fn fallback_queues_beyond_the_deadline() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let limiter = Limiter::from(store.clone());
    let minute = Duration::from_secs(60);
    let (alice, limits) = (alice(), Limits::from(Quota::per_hour(60).burst(1).queue(2)));
    let acquire = || limiter.acquire(&Check::new(&alice, &limits));
    let (start, mut delays) = (Instant::now(), Vec::new());
    let callers = [acquire(), acquire(), acquire()];
    let denied = acquire();
    for caller in join_all(callers).await {
        let permit: Permit = caller.unwrap();
        assert!(permit.decision().is_degraded());
        delays.push(permit.decision().delay());
    }
    // The fallback's clock is that of the process, which is slewed.
    assert_eq!(delays[0], Duration::ZERO);
    for place in 1..=2 {
        let delay = delays[place as usize];
        assert!(
            (place - 1) * minute < delay && delay <= place * minute,
            "{delay:?}"
        );
    }
    assert!(start.elapsed() >= delays[2]);
    assert!(denied.await.is_err(), "the fallback's queue is full");

    let closed = limiter.failure_strategy(FailureStrategy::Closed);
    let refused = closed.acquire(&Check::new(&alice, &limits)).await;
    assert!(refused.unwrap_err().decision().is_refused());
}

#[test]
fn permits_and_their_futures_can_be_sent() {
    fn assert_send<T: Send + 'static>(_: T) {}
    fn assert_sync<T: Send + Sync + 'static>() {}
    let limiter = Limiter::from(LocalStore::new());
    assert_send({
        let (alice, limits) = (alice(), spaced(1));
        limiter.acquire(&Check::new(&alice, &limits))
    });
    assert_sync::<Permit>();
}
