//! The store in the process is exact under concurrency and bounded in memory: a flood of
//! identities makes nobody's debt forgotten while there is room.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tollgate::test_util::ManualClock;
use tollgate::{Check, Checked, Clock, Identity, Limiter, Limits, LocalStore, Policy, Quota};

/// Nothing is regained and no window ends while a test runs.
const PERIOD: Duration = Duration::from_secs(3_650 * 86_400);
const TASKS: usize = 64;

fn quotas(limit: u32) -> [Quota; 3] {
    [
        Quota::token_bucket(limit, PERIOD),
        Quota::sliding_window(limit, PERIOD),
        Quota::fixed_window(limit, PERIOD),
    ]
}

/// Each algorithm alone, and all of them at once.
fn plans(limit: u32) -> [Limits; 4] {
    let [bucket, sliding, fixed] = quotas(limit);
    let all = [("bucket", bucket), ("sliding", sliding), ("fixed", fixed)];
    let all = Limits::new(all.map(|(name, quota)| Policy::new(name, quota))).unwrap();
    [bucket.into(), sliding.into(), fixed.into(), all]
}

fn is_allowed(limiter: &Limiter, identity: &Identity, limits: &Limits) -> bool {
    match limiter.check(&Check::new(identity, limits)) {
        Checked::Ready(decision) => decision.is_allowed(),
        Checked::Pending(_) => panic!("a local store decides at once"),
    }
}

fn user(index: usize) -> Identity {
    Identity::user(&index.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn many_tasks_on_one_identity_are_admitted_exactly_the_limit() {
    const LIMIT: u32 = 5_000;
    for limits in plans(LIMIT) {
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
async fn many_tasks_on_a_million_identities_are_admitted_exactly_their_limits() {
    const IDENTITIES: usize = 1_000_000;
    for limits in plans(2) {
        let counts = IDENTITIES * limits.policies().len();
        let limiter = Limiter::from(LocalStore::with_capacity(2 * counts));
        let admitted: Arc<[AtomicU32]> = (0..IDENTITIES).map(|_| AtomicU32::new(0)).collect();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (limiter, limits, admitted) = (limiter.clone(), limits.clone(), admitted.clone());
            tasks.spawn(async move {
                // Four tasks to each identity, which come to it at different times.
                let quarter = IDENTITIES / (TASKS / 4);
                let (lane, turn) = (task / 4, task % 4);
                for step in 0..quarter {
                    let index = lane * quarter + (step + turn * quarter / 4) % quarter;
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
            "{limits:?}: identities that were not admitted exactly twice"
        );
    }
}

#[test]
fn many_threads_on_a_quota_that_flows_back_are_admitted_no_more_than_flowed() {
    let quota = Quota::per_second(1_000).burst(10);
    let limits = Limits::from(quota);
    let limiter = Limiter::from(LocalStore::new());
    let began = Instant::now();
    let hammer = || {
        let mut admitted = 0;
        while began.elapsed() < Duration::from_secs(1) {
            admitted += u64::from(is_allowed(&limiter, &user(0), &limits));
        }
        admitted
    };
    let admitted: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(hammer)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    let most = 10 + began.elapsed().as_millis() as u64;
    assert!(admitted <= most, "{admitted} of at most {most}");
}

/// How many of the first identities still owe.
fn debtors(limiter: &Limiter, limits: &Limits, count: usize) -> usize {
    let owes = |index: &usize| {
        let debtor = user(*index);
        match limiter.peek(&Check::new(&debtor, limits)) {
            Checked::Ready(decision) => decision.remaining() < decision.capacity(),
            Checked::Pending(_) => panic!("a local store decides at once"),
        }
    };
    (0..count).filter(owes).count()
}

#[test]
fn a_full_table_remembers_nearly_all_and_a_flood_costs_no_more_than_room() {
    const CAPACITY: usize = 100_000;
    let limits = Limits::from(Quota::token_bucket(10, PERIOD));
    let limiter = Limiter::from(LocalStore::with_capacity(CAPACITY));
    for index in 0..CAPACITY {
        assert!(is_allowed(&limiter, &user(index), &limits));
    }
    let kept = debtors(&limiter, &limits, CAPACITY);
    assert!(
        kept >= CAPACITY - CAPACITY / 10_000,
        "{kept} of {CAPACITY} debts are remembered"
    );

    // Ten times as many, who owe as much: old debts give way, and nothing else happens.
    for index in CAPACITY..10 * CAPACITY {
        assert!(is_allowed(&limiter, &user(index), &limits));
    }
    assert!(debtors(&limiter, &limits, CAPACITY) < CAPACITY);
}

#[test]
fn the_least_indebted_gives_way() {
    for quota in quotas(10) {
        let limits = Limits::from(quota);
        let limiter = Limiter::from(LocalStore::with_capacity(1_000));
        let fill = |identities: std::ops::Range<usize>, cost| {
            for index in identities {
                let debtor = user(index);
                let _ = limiter.check(&Check::new(&debtor, &limits).cost(cost));
            }
        };
        // A full table, those who spend everything, and a flood of those who spend little.
        fill(100..1_100, 1);
        fill(0..100, 10);
        fill(1_100..50_000, 1);
        let denied = (0..100)
            .filter(|index| !is_allowed(&limiter, &user(*index), &limits))
            .count();
        assert_eq!(
            denied, 100,
            "{quota}: great debts are not forgotten for small ones"
        );
    }
}

#[test]
fn a_small_part_of_a_long_quota_is_less_than_all_of_a_short_one() {
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
            let debtor = user(index);
            let _ = limiter.check(&Check::new(&debtor, &short).cost(5));
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
fn a_count_that_has_run_its_course_makes_room() {
    let clock = ManualClock::new();
    let limits = Limits::from(Quota::per_second(10));
    let limiter = Limiter::from(LocalStore::with_capacity(1_000).clock(clock.clone()));
    for generation in 0..20 {
        for index in 0..900 {
            let who = user(generation * 1_000 + index);
            assert!(is_allowed(&limiter, &who, &limits));
        }
        let last = generation * 1_000..generation * 1_000 + 900;
        let owing = last.filter(|index| {
            let who = user(*index);
            let Checked::Ready(decision) = limiter.peek(&Check::new(&who, &limits)) else {
                panic!("a local store decides at once");
            };
            decision.remaining() == 9
        });
        // Nearly full, it may lose a few in a hundred thousand.
        let owing = owing.count();
        assert!(owing >= 898, "generation {generation}: {owing} of 900");
        clock.advance(Duration::from_millis(101));
    }
}

#[test]
fn the_policies_of_one_check_never_drive_each_other_out() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let quota = Quota::token_bucket(3, PERIOD);
    let limits = Limits::new(names.map(|name| Policy::new(name, quota))).unwrap();
    // The smallest table there is has room for one such check.
    for capacity in [0, 1, 8] {
        let limiter = Limiter::from(LocalStore::with_capacity(capacity));
        for index in 0..1_000 {
            let who = user(index);
            let Checked::Ready(decision) = limiter.check(&Check::new(&who, &limits)) else {
                panic!("a local store decides at once");
            };
            assert!(decision.is_allowed());
            let Checked::Ready(decision) = limiter.peek(&Check::new(&who, &limits)) else {
                panic!("a local store decides at once");
            };
            assert!(
                decision
                    .policies()
                    .all(|(_, status)| status.remaining() == 2)
            );
        }
    }
}

type Meanwhile = Box<dyn FnOnce() + Send>;

/// A clock at which a reader can be held up: what it read is old when it goes on.
#[derive(Default)]
struct SlowlyRead {
    now: AtomicU64,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl SlowlyRead {
    /// Starts at a window of any period that divides a second.
    const START: u64 = 1_700_000_000_000_000;

    fn set(&self, milliseconds: u64) {
        self.now
            .store(Self::START + 1_000 * milliseconds, Ordering::SeqCst);
    }

    /// What happens between the next reading and what is done with it.
    fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(act));
    }
}

impl Clock for SlowlyRead {
    fn now(&self) -> u64 {
        let now = self.now.load(Ordering::SeqCst);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(act) = meanwhile {
            act();
        }
        now
    }
}

/// A limiter of the smallest table there is, and its clock.
fn with_slow_clock() -> (Limiter, Arc<SlowlyRead>) {
    let clock = Arc::new(SlowlyRead::default());
    let store = LocalStore::with_capacity(0).clock(clock.clone());
    (Limiter::from(store), clock)
}

#[test]
fn one_who_was_held_up_after_reading_the_clock_is_not_denied_what_fits() {
    let (limiter, clock) = with_slow_clock();
    let limits = Limits::from(Quota::token_bucket(3, Duration::from_millis(300)));
    clock.set(1);
    assert!(is_allowed(&limiter, &user(0), &limits));
    clock.set(500);
    let (others, others_clock, others_limits) = (limiter.clone(), clock.clone(), limits.clone());
    clock.meanwhile(move || {
        others_clock.set(550);
        assert!(is_allowed(&others, &user(0), &others_limits));
        assert!(is_allowed(&others, &user(0), &others_limits));
    });
    // Two of three were admitted since the bucket was full.
    assert!(is_allowed(&limiter, &user(0), &limits));
}

/// A thread that decides in real time has a cached reading of the clock for a millisecond.
#[test]
fn cached_clock_does_not_outlast_entering_paused_time() {
    let limiter = Limiter::from(LocalStore::new());
    // A denial whose wait is longer than a second is decided by the cached clock alone.
    let limits = Limits::from(Quota::per_hour(1));
    for round in 0..50 {
        // The rate of the counter is measured twice before a reading is extended by it.
        let (warm, began) = (Identity::user("warm"), Instant::now());
        while began.elapsed() < Duration::from_millis(3) {
            let _ = limiter.check(&Check::new(&warm, &limits));
        }
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
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

/// Counts of the whole capacity are live at once, and each is exhausted.
#[test]
fn table_at_its_capacity_forgets_nothing() {
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
        // One run in 250 loses one count: one in 25 million.
        let [first, again] = [admitted(), admitted()];
        assert_eq!(first, CAPACITY, "{quota}");
        assert!(
            again <= 1,
            "{quota}: {again} exhausted users were admitted again"
        );
    }
}
