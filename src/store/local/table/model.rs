//! Tests of the table with the model checker loom. It runs every interleaving of two threads' locks and
//! atomics, including relaxed loads that return older values:
//!
//! ```sh
//! RUSTFLAGS="--cfg tollgate_loom" cargo test --lib --no-default-features --target-dir target/loom model
//! ```

use std::collections::HashSet;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use loom::model::Builder;
use loom::thread;

use super::set::SLOTS_PER_SET;
use super::slot::{Entry, Key};
use super::sync::{AtomicU64, Ordering};
use super::table::Table;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::quota::{Limits, Policy, Quota, State, Status};
use crate::store::check::Check;

/// The start of a second.
const NOW: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;
const DAY: Duration = Duration::from_secs(86_400);

/// A clock that the test sets. Its atomic is relaxed, so it does not synchronize threads.
#[derive(Clone)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn at(now: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now)))
    }

    fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Creates the smallest table: its two sets are the candidates of every key.
fn table(clock: &TestClock) -> Arc<Table> {
    let mut table = Table::with_capacity(0, "model");
    table.set_clock(clock.clone());
    // Prevents estimates of live entries, which would multiply the interleavings.
    for shard in &table.storage.shards {
        shard.estimated_at.store(clock.now(), Ordering::Relaxed);
    }
    Arc::new(table)
}

/// Runs a test in every interleaving.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.max_branches = 100_000;
    builder.check(run);
}

fn user(id: usize) -> Identity {
    Identity::user(&id.to_string())
}

impl Table {
    /// Decides a check as `LocalStore` does.
    fn decide(&self, check: &Check<'_>) -> Vec<Status> {
        match self.charge_lock_free(check) {
            Some((.., status)) => vec![status],
            None => self.lock(check).decide(false).statuses.to_vec(),
        }
    }

    fn admits(&self, user: &Identity, limits: &Limits, cost: u32) -> bool {
        let check = Check::new(user, limits).cost(cost);
        self.decide(&check).iter().all(Status::is_allowed)
    }

    /// Returns the remaining cost under each policy.
    fn remaining(&self, user: &Identity, limits: &Limits) -> Vec<u32> {
        let statuses = self.decide(&Check::new(user, limits).cost(0));
        statuses.iter().map(Status::remaining).collect()
    }

    /// Asserts that no key has two entries.
    fn assert_unique_keys(&self) {
        let mut seen = HashSet::new();
        for slot in self.storage.slots() {
            let key = slot.load().tag & Entry::KEY_MASK;
            assert!(key == 0 || seen.insert(key), "a key has two entries");
        }
    }
}

/// Runs two closures in two threads, and returns their results.
fn concurrently<A: 'static, B: 'static>(
    first: impl FnOnce() -> A + 'static,
    second: impl FnOnce() -> B + 'static,
) -> (A, B) {
    let first = thread::spawn(first);
    let second = second();
    (first.join().expect("no panic"), second)
}

#[test]
fn limit_of_one_admits_one_of_two_first_checks() {
    model(|| {
        let table = table(&TestClock::at(NOW));
        let check = |table: Arc<Table>| {
            let limits = Quota::fixed_window(1, DAY).into();
            move || table.admits(&user(0), &limits, 1)
        };
        let (first, second) = concurrently(check(table.clone()), check(table.clone()));
        assert!(first != second, "exactly one check must be admitted");
        table.assert_unique_keys();
    });
}

/// Creates a full table: user 0 has used a cost of one, one user of the other set two, and all others
/// three. So user 0 is evicted first, and comes back into the other set.
fn full(quota: Quota) -> (Arc<Table>, Limits) {
    full_with(quota, 1)
}

/// Creates a full table: user 0 has used `least`, one user of the other set one more, and all others two
/// more.
fn full_with(quota: Quota, least: u32) -> (Arc<Table>, Limits) {
    let table = table(&TestClock::at(NOW));
    let limits = Limits::from(quota);
    let all = 0..2 * SLOTS_PER_SET;
    for id in all.clone() {
        assert!(table.admits(&user(id), &limits, least + u32::from(id > 0)));
    }
    let set = |id| {
        let (user, policy) = (user(id), &limits.policies()[0]);
        let key = Key::new(&Check::new(&user, &limits), policy);
        table
            .storage
            .find(key)
            .map(|found| ptr::from_ref(found.set))
    };
    let next = all.clone().find(|id| set(*id) != set(0));
    for id in all.skip(1).filter(|id| Some(*id) != next) {
        assert!(table.admits(&user(id), &limits, 1));
    }
    (table, limits)
}

const NEWCOMER: usize = 100;

/// Runs a test for entries that are charged under a mutex, and for entries that are charged without one.
fn model_both(run: fn(Quota)) {
    for quota in [Quota::fixed_window(4, DAY), Quota::token_bucket(4, DAY)] {
        model(move || run(quota));
    }
}

#[test]
fn charge_of_concurrently_evicted_entry_is_not_lost() {
    model_both(|quota| {
        let (table, limits) = full(quota);
        let (evicting, same) = (table.clone(), limits.clone());
        let evict = move || evicting.admits(&user(NEWCOMER), &same, 4);
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 3);
        assert_eq!(concurrently(evict, charge), (true, true));

        assert_eq!(table.remaining(&user(NEWCOMER), &limits), [0]);
        assert!(table.remaining(&user(0), &limits) <= vec![1]);
        table.assert_unique_keys();
    });
}

#[test]
fn entry_evicted_and_recreated_is_charged_once() {
    model_both(|quota| {
        let (table, limits) = full(quota);
        let (evicting, same) = (table.clone(), limits.clone());
        let evict_and_return = move || {
            let evicted = evicting.admits(&user(NEWCOMER), &same, 4);
            evicted && evicting.admits(&user(0), &same, 2)
        };
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 2);
        let (returned, charged) = concurrently(evict_and_return, charge);
        // User 0 may use four, and has used one, unless the eviction deleted that.
        assert!(returned || charged, "a cost of two fits at least once");
        assert_eq!(table.remaining(&user(NEWCOMER), &limits), [0]);
        let max = if returned && charged { 0 } else { 2 };
        assert!(table.remaining(&user(0), &limits) <= vec![max]);
        table.assert_unique_keys();
    });
}

/// A newcomer with the same cost evicts user 0 while user 0 is charged. The clock stands still, so both
/// entries have the same word.
#[test]
fn evicted_slot_with_equal_state_is_not_charged() {
    for (limit, cost) in [(4, 1), (4, 3), (8, 1)] {
        model(move || {
            let (table, limits) = full(Quota::token_bucket(limit, DAY));
            let check = |id, cost| {
                let (table, limits) = (table.clone(), limits.clone());
                move || table.admits(&user(id), &limits, cost)
            };
            let charged = concurrently(check(NEWCOMER, 1), check(0, cost));
            assert_eq!(charged, (true, true));
            // The newcomer's entry may be evicted in turn, but no other cost is charged to it.
            assert!(table.remaining(&user(NEWCOMER), &limits) >= vec![limit - 1]);
            table.assert_unique_keys();
        });
    }
}

/// Like the test above, but the newcomer is charged again, and then has the word that user 0 had.
#[test]
fn evicted_slot_with_recreated_state_is_not_charged() {
    model(|| {
        let (table, limits) = full_with(Quota::token_bucket(4, DAY), 2);
        let (evicting, same) = (table.clone(), limits.clone());
        let evict_and_charge = move || {
            let evicted = evicting.admits(&user(NEWCOMER), &same, 1);
            evicted && evicting.admits(&user(NEWCOMER), &same, 1)
        };
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 2);
        assert_eq!(concurrently(evict_and_charge, charge), (true, true));
        assert!(table.remaining(&user(NEWCOMER), &limits) >= vec![2]);
        table.assert_unique_keys();
    });
}

/// Creates a table with an entry that is charged without a lock: `used` of four a day.
fn compact_entry(used: u32) -> (Arc<Table>, Limits) {
    let (table, limits) = (
        table(&TestClock::at(NOW)),
        Quota::token_bucket(4, DAY).into(),
    );
    assert!(table.admits(&user(0), &limits, used));
    (table, limits)
}

#[test]
fn concurrent_lock_free_charges_are_both_counted() {
    model(|| {
        let (table, limits) = compact_entry(1);
        let check = |table: &Arc<Table>, cost| {
            let (table, limits) = (table.clone(), limits.clone());
            move || table.admits(&user(0), &limits, cost)
        };
        assert_eq!(
            concurrently(check(&table, 1), check(&table, 1)),
            (true, true)
        );
        assert_eq!(table.remaining(&user(0), &limits), [1]);
        let (first, second) = concurrently(check(&table, 1), check(&table, 1));
        assert!(first != second, "exactly one check must be admitted");
        assert_eq!(table.remaining(&user(0), &limits), [0]);
    });
}

#[test]
fn unsynced_state_is_never_read_as_synced() {
    model(|| {
        let (table, limits) = compact_entry(1);
        let (before, is_unsynced) = read(&table, &limits);
        assert!(!is_unsynced);
        let decide_unsynced = {
            let (table, limits) = (table.clone(), limits.clone());
            move || {
                table.lock(&Check::new(&user(0), &limits)).decide(true);
            }
        };
        let reading = {
            let (table, limits) = (table.clone(), limits.clone());
            move || read(&table, &limits)
        };
        let ((state, is_unsynced), ()) = concurrently(reading, decide_unsynced);
        assert!(state == before || is_unsynced, "a new state is unsynced");
        let (state, is_unsynced) = read(&table, &limits);
        assert!(state != before && is_unsynced);
    });
}

/// Returns the state of user 0, and whether it is unsynced.
fn read(table: &Table, limits: &Limits) -> (State, bool) {
    let (_, entries) = table.read(&Check::new(&user(0), limits));
    entries[0]
}

#[test]
fn concurrent_reset_deletes_a_charge_or_precedes_it() {
    model(|| {
        let (table, limits) = compact_entry(2);
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 1);
        let (resetting, same) = (table.clone(), limits.clone());
        let reset_and_charge = move || {
            resetting.lock(&Check::new(&user(0), &same)).clear();
            assert!(resetting.admits(&user(0), &same, 2));
        };
        assert!(concurrently(charge, reset_and_charge).0);
        assert!([[1], [2]].contains(&table.remaining(&user(0), &limits)[..].try_into().unwrap()));
        table.assert_unique_keys();
    });
}

#[test]
fn lock_free_and_two_policy_charges_are_atomic() {
    model(|| {
        let table = table(&TestClock::at(NOW));
        let four = Policy::new("four", Quota::token_bucket(4, DAY));
        let nine = Policy::new("nine", Quota::token_bucket(9, DAY));
        let alone = Limits::new([four.clone()]).expect("a name");
        let with_nine = Limits::new([nine, four]).expect("two names");
        assert!(table.admits(&user(0), &with_nine, 2));
        let check = |limits: &Limits| {
            let (table, limits) = (table.clone(), limits.clone());
            move || table.admits(&user(0), &limits, 2)
        };
        let (first, second) = concurrently(check(&alone), check(&with_nine));
        assert!(first != second, "exactly one check must be admitted");
        let left = if second { [5, 0] } else { [7, 0] };
        assert_eq!(table.remaining(&user(0), &with_nine), left);
        table.assert_unique_keys();
    });
}

/// Returns limits of two policies, which admit two and three, in both orders.
fn opposite() -> [Limits; 2] {
    let two = Policy::new("two", Quota::fixed_window(2, DAY));
    let three = Policy::new("three", Quota::fixed_window(3, DAY));
    let orders = [[two.clone(), three.clone()], [three, two]];
    orders.map(|policies| Limits::new(policies).expect("two names"))
}

/// Runs two checks of both policies concurrently. Only one of them fits, after a check of cost `used`.
fn opposite_checks(used: u32, cost: u32) {
    let table = table(&TestClock::at(NOW));
    let [limits, reversed] = opposite();
    if used > 0 {
        // The two entries are in different sets.
        assert!(table.admits(&user(0), &limits, used));
    }
    let check = |limits: &Limits| {
        let (table, limits) = (table.clone(), limits.clone());
        move || table.admits(&user(0), &limits, cost)
    };
    let (first, second) = concurrently(check(&limits), check(&reversed));
    assert!(first != second, "exactly one check must be admitted");
    assert_eq!(table.remaining(&user(0), &limits), [0, 1], "all or nothing");
    table.assert_unique_keys();
}

#[test]
fn first_checks_in_opposite_order_are_atomic() {
    model(|| opposite_checks(0, 2));
}

#[test]
fn later_checks_in_opposite_order_are_atomic() {
    model(|| opposite_checks(1, 1));
}

/// Returns a policy of each algorithm. Each admits one check at [`NOW`], and another two seconds later.
fn one_in_a_second() -> [Policy; 3] {
    let second = Duration::from_secs(1);
    let quotas = [
        Quota::token_bucket(1, second),
        Quota::sliding_window(1, second),
        Quota::fixed_window(1, second),
    ];
    quotas.map(|quota| Policy::new("second", quota))
}

/// Runs two checks concurrently, while the clock moves to the time at which one more check fits.
fn moving_clock(limits: &Limits) {
    let clock = TestClock::at(NOW);
    let table = table(&clock);
    assert!(table.admits(&user(0), limits, 1));
    clock.set(NOW + SECOND - 1_000);

    let check = |limits: &Limits| {
        let (table, limits) = (table.clone(), limits.clone());
        move || table.admits(&user(0), &limits, 1)
    };
    let (early, late) = (check(limits), check(limits));
    let late = move || {
        clock.set(NOW + 2 * SECOND);
        late()
    };
    let (early, late) = concurrently(early, late);
    let admitted = [early, late, table.admits(&user(0), limits, 1)];
    let times = admitted.iter().filter(|admitted| **admitted).count();
    assert_eq!(times, 1, "{admitted:?}");
    table.assert_unique_keys();
}

#[test]
fn clock_moved_before_the_lock_creates_no_tokens() {
    for policy in one_in_a_second() {
        model(move || moving_clock(&Limits::new([policy.clone()]).expect("a name")));
    }
}

#[test]
fn delayed_charge_is_not_denied_by_a_later_one() {
    model(|| {
        let token = 86_400 * SECOND / 4;
        let clock = TestClock::at(NOW - token / 2);
        let (table, limits) = (table(&clock), Quota::token_bucket(4, DAY).into());
        assert!(table.admits(&user(0), &limits, 3));
        clock.set(NOW);
        let check = || {
            let (table, limits) = (table.clone(), limits.clone());
            move || table.admits(&user(0), &limits, 1)
        };
        let (early, late) = (check(), check());
        let late = move || {
            // Two and a half of the three tokens are refilled.
            clock.set(NOW + 5 * token / 2);
            late()
        };
        assert_eq!(concurrently(early, late), (true, true));
    });
}

#[test]
fn clock_moved_before_two_locks_creates_no_tokens() {
    for policy in one_in_a_second() {
        model(move || {
            let day = Policy::new("day", Quota::fixed_window(100, DAY));
            moving_clock(&Limits::new([policy.clone(), day]).expect("two names"));
        });
    }
}
