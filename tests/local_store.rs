//! `LocalStore` admits exactly the limit under concurrency, and its memory is bounded. It evicts a live
//! entry only if all ten candidate slots of a new entry hold live ones, and picks the entry that has used
//! the smallest share of its quota.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tollgate::test_util::ManualClock;
use tollgate::{
    Check, Checked, Clock, Decision, Identity, Limiter, Limits, LocalStore, Policy, Quota,
};

/// Long enough that no quota regains anything while a test runs.
const PERIOD: Duration = Duration::from_secs(3_650 * 86_400);
const TASKS: usize = 64;

fn quotas(limit: u32) -> [Quota; 3] {
    [
        Quota::token_bucket(limit, PERIOD),
        Quota::sliding_window(limit, PERIOD),
        Quota::fixed_window(limit, PERIOD),
    ]
}

/// Returns limits of each algorithm alone, and of all of them together.
fn all_limits(limit: u32) -> [Limits; 4] {
    let [bucket, sliding, fixed] = quotas(limit);
    let all = [("bucket", bucket), ("sliding", sliding), ("fixed", fixed)];
    let all = Limits::new(all.map(|(name, quota)| Policy::new(name, quota))).unwrap();
    [bucket.into(), sliding.into(), fixed.into(), all]
}

/// Returns the decision of a local store, which is never pending.
fn ready(checked: Checked<'_>) -> Decision<'_> {
    match checked {
        Checked::Ready(decision) => decision,
        Checked::Pending(_) => panic!("a local store decides at once"),
    }
}

fn is_allowed(limiter: &Limiter, identity: &Identity, limits: &Limits) -> bool {
    ready(limiter.check(&Check::new(identity, limits))).is_allowed()
}

fn user(index: usize) -> Identity {
    Identity::user(&index.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn concurrent_checks_of_one_identity_admit_exactly_the_limit() {
    const LIMIT: u32 = 5_000;
    for limits in all_limits(LIMIT) {
        let limiter = Limiter::from(LocalStore::new());
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (limiter, limits) = (limiter.clone(), limits.clone());
            tasks.spawn(async move {
                let mut admitted = 0;
                for round in 0..2 * LIMIT as usize / TASKS {
                    admitted += u32::from(is_allowed(&limiter, &user(0), &limits));
                    if round % 16 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                admitted
            });
        }
        let admitted: u32 = tasks.join_all().await.into_iter().sum();
        assert_eq!(admitted, LIMIT, "{limits:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn concurrent_checks_of_a_million_identities_admit_their_limits() {
    const IDENTITIES: usize = 1_000_000;
    for limits in all_limits(2) {
        let entries = IDENTITIES * limits.policies().len();
        let limiter = Limiter::from(LocalStore::with_capacity(2 * entries));
        let admitted: Arc<[AtomicU32]> = (0..IDENTITIES).map(|_| AtomicU32::new(0)).collect();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (limiter, limits, admitted) = (limiter.clone(), limits.clone(), admitted.clone());
            tasks.spawn(async move {
                // Four tasks check each identity, at different times.
                let range = IDENTITIES / (TASKS / 4);
                let (group, member) = (task / 4, task % 4);
                for step in 0..range {
                    let index = group * range + (step + member * range / 4) % range;
                    if is_allowed(&limiter, &user(index), &limits) {
                        admitted[index].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        tasks.join_all().await;
        let wrong = admitted
            .iter()
            .filter(|count| count.load(Ordering::Relaxed) != 2)
            .count();
        assert_eq!(
            wrong, 0,
            "{limits:?}: identities not admitted exactly twice"
        );
    }
}

#[test]
fn concurrent_threads_admit_no_more_than_the_refill() {
    let quota = Quota::per_second(1_000).burst(10);
    let limits = Limits::from(quota);
    let limiter = Limiter::from(LocalStore::new());
    let began = Instant::now();
    let check_for_a_second = || {
        let mut admitted = 0;
        while began.elapsed() < Duration::from_secs(1) {
            admitted += u64::from(is_allowed(&limiter, &user(0), &limits));
        }
        admitted
    };
    let admitted: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(check_for_a_second)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    let most = 10 + began.elapsed().as_millis() as u64;
    assert!(admitted <= most, "{admitted} of at most {most}");
}

/// Returns how many of the first `count` identities have an entry: their remaining cost is below the
/// capacity.
fn count_entries(limiter: &Limiter, limits: &Limits, count: usize) -> usize {
    let has_entry = |index: &usize| {
        let user = user(*index);
        let decision = ready(limiter.peek(&Check::new(&user, limits)));
        decision.remaining() < decision.capacity()
    };
    (0..count).filter(has_entry).count()
}

#[test]
fn full_table_admits_new_identities() {
    const CAPACITY: usize = 100_000;
    let limits = Limits::from(Quota::token_bucket(10, PERIOD));
    let limiter = Limiter::from(LocalStore::with_capacity(CAPACITY));
    for index in 0..CAPACITY {
        assert!(is_allowed(&limiter, &user(index), &limits));
    }
    let kept = count_entries(&limiter, &limits, CAPACITY);
    assert!(
        kept >= CAPACITY - CAPACITY / 10_000,
        "{kept} of {CAPACITY} entries are kept"
    );

    // Checks of nine times as many other identities are admitted and evict old entries.
    for index in CAPACITY..10 * CAPACITY {
        assert!(is_allowed(&limiter, &user(index), &limits));
    }
    assert!(count_entries(&limiter, &limits, CAPACITY) < CAPACITY);
}

#[test]
fn least_charged_entry_is_evicted_first() {
    for quota in quotas(10) {
        let limits = Limits::from(quota);
        let limiter = Limiter::from(LocalStore::with_capacity(1_000));
        let charge = |identities: std::ops::Range<usize>, cost| {
            for index in identities {
                let user = user(index);
                let _ = limiter.check(&Check::new(&user, &limits).cost(cost));
            }
        };
        // Fill the table, exhaust the quotas of 100 identities, then flood the table with small
        // charges.
        charge(100..1_100, 1);
        charge(0..100, 10);
        charge(1_100..50_000, 1);
        let denied = (0..100)
            .filter(|index| !is_allowed(&limiter, &user(*index), &limits))
            .count();
        assert_eq!(
            denied, 100,
            "{quota}: exhausted entries are not evicted for small ones"
        );
    }
}

#[test]
fn eviction_compares_used_shares_not_periods() {
    let short = Limits::from(Quota::per_minute(5));
    for quota in [
        Quota::fixed_window(10_000, PERIOD),
        Quota::sliding_window(10_000, PERIOD),
        Quota::token_bucket(10_000, PERIOD),
    ] {
        let clock = ManualClock::new();
        let limiter = Limiter::from(LocalStore::with_capacity(1_000).clock(clock));
        let long = Limits::from(quota);
        for index in 0..100 {
            let user = user(index);
            let _ = limiter.check(&Check::new(&user, &short).cost(5));
        }
        for index in 100..50_000 {
            is_allowed(&limiter, &user(index), &long);
        }
        let denied = (0..100)
            .filter(|index| !is_allowed(&limiter, &user(*index), &short))
            .count();
        assert_eq!(denied, 100, "{quota}");
    }
}

#[test]
fn expired_entries_are_reused() {
    let clock = ManualClock::new();
    let limits = Limits::from(Quota::per_second(10));
    let limiter = Limiter::from(LocalStore::with_capacity(1_000).clock(clock.clone()));
    for generation in 0..20 {
        for index in 0..900 {
            let user = user(generation * 1_000 + index);
            assert!(is_allowed(&limiter, &user, &limits));
        }
        let last = generation * 1_000..generation * 1_000 + 900;
        let kept = last.filter(|index| {
            let user = user(*index);
            ready(limiter.peek(&Check::new(&user, &limits))).remaining() == 9
        });
        // Fewer than one live entry in ten million is evicted. The bound allows two, since the table is
        // small and its hash is random.
        let kept = kept.count();
        assert!(kept >= 898, "generation {generation}: {kept} of 900");
        clock.advance(Duration::from_millis(101));
    }
}

#[test]
fn policies_of_one_check_never_evict_each_other() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let quota = Quota::token_bucket(3, PERIOD);
    let limits = Limits::new(names.map(|name| Policy::new(name, quota))).unwrap();
    // The smallest table holds the entries of one such check.
    for capacity in [0, 1, 8] {
        let limiter = Limiter::from(LocalStore::with_capacity(capacity));
        for index in 0..1_000 {
            let user = user(index);
            assert!(is_allowed(&limiter, &user, &limits));
            let decision = ready(limiter.peek(&Check::new(&user, &limits)));
            assert!(
                decision
                    .policies()
                    .all(|(_, status)| status.remaining() == 2)
            );
        }
    }
}

type Action = Box<dyn FnOnce() + Send>;

/// A clock that can run an action between reading the time and returning it, as if the reading
/// thread had been preempted.
#[derive(Default)]
struct PreemptedClock {
    now: AtomicU64,
    action: Mutex<Option<Action>>,
}

impl PreemptedClock {
    /// The start of the tests, in microseconds since the Unix epoch: a whole second, at which a window
    /// begins if its period divides a second.
    const START: u64 = 1_700_000_000_000_000;

    /// Sets the time to this many milliseconds after [`Self::START`].
    fn set_after_start(&self, milliseconds: u64) {
        self.now
            .store(Self::START + 1_000 * milliseconds, Ordering::SeqCst);
    }

    /// Runs `action` before the next reading is returned.
    fn preempt_next_reading(&self, action: impl FnOnce() + Send + 'static) {
        *self.action.lock().unwrap() = Some(Box::new(action));
    }
}

impl Clock for PreemptedClock {
    fn now(&self) -> u64 {
        let now = self.now.load(Ordering::SeqCst);
        let action = self.action.lock().unwrap().take();
        if let Some(action) = action {
            action();
        }
        now
    }
}

/// Returns a limiter with the smallest table, and its clock.
fn limiter_with_preempted_clock() -> (Limiter, Arc<PreemptedClock>) {
    let clock = Arc::new(PreemptedClock::default());
    let store = LocalStore::with_capacity(0).clock(clock.clone());
    (Limiter::from(store), clock)
}

#[test]
fn stale_clock_reading_denies_no_check_that_fits() {
    let (limiter, clock) = limiter_with_preempted_clock();
    let limits = Limits::from(Quota::token_bucket(3, Duration::from_millis(300)));
    clock.set_after_start(1);
    assert!(is_allowed(&limiter, &user(0), &limits));
    clock.set_after_start(500);
    let (other, other_clock, other_limits) = (limiter.clone(), clock.clone(), limits.clone());
    clock.preempt_next_reading(move || {
        other_clock.set_after_start(550);
        assert!(is_allowed(&other, &user(0), &other_limits));
        assert!(is_allowed(&other, &user(0), &other_limits));
    });
    // The bucket was full at 500 ms, and two of three tokens were taken since.
    assert!(is_allowed(&limiter, &user(0), &limits));
}

/// A thread that decides in real time caches its clock reading for a millisecond.
#[test]
fn cached_clock_is_not_used_in_paused_time() {
    let limiter = Limiter::from(LocalStore::new());
    // Denials with a `retry_after` above a second use the cached clock alone.
    let limits = Limits::from(Quota::per_hour(1));
    let warm = Identity::user("warm");
    assert!(is_allowed(&limiter, &warm, &limits));
    for round in 0..50 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        // A denial in real time, so that this thread has a cached reading when it enters the runtime.
        assert!(!is_allowed(&limiter, &warm, &limits));
        runtime.block_on(async {
            let user = Identity::user(&round.to_string());
            let check = Check::new(&user, &limits);
            assert!(limiter.check(&check).await.is_allowed());
            assert!(!limiter.check(&check).await.is_allowed());
            tokio::time::advance(Duration::from_secs(3_600)).await;
            assert!(limiter.check(&check).await.is_allowed(), "round {round}");
        });
    }
}

/// The table is filled to its capacity with exhausted entries.
#[test]
fn table_at_capacity_keeps_its_live_entries() {
    const CAPACITY: usize = 100_000;
    for quota in [
        Quota::token_bucket(1, PERIOD),
        Quota::fixed_window(1, PERIOD),
    ] {
        let limiter = Limiter::from(LocalStore::with_capacity(CAPACITY));
        let limits = Limits::from(quota);
        let admitted = || {
            let users = (0..CAPACITY).map(user);
            users
                .filter(|user| is_allowed(&limiter, user, &limits))
                .count()
        };
        // About one run in 250 evicts one live entry.
        let [first, again] = [admitted(), admitted()];
        assert_eq!(first, CAPACITY, "{quota}");
        assert!(
            again <= 1,
            "{quota}: {again} exhausted users were admitted again"
        );
    }
}
