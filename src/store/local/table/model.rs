//! The table under a model checker, loom, which runs it in every order in which two threads' locks
//! and atomics can come between each other, older values that a relaxed load may see included:
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

use super::bucket::SLOTS_PER_BUCKET;
use super::*;
use crate::identity::Identity;
use crate::quota::{Limits, Policy, Quota};

/// The start of a second.
const NOW: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;
const DAY: Duration = Duration::from_secs(86_400);

/// A clock that is moved by hand, and by which threads learn nothing of each other.
#[derive(Clone)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn at(now: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now)))
    }

    fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The smallest table: two buckets, in either of which any key may stand.
fn table(clock: &Hand) -> Arc<Table> {
    let mut table = Table::with_capacity(0, "model");
    table.set_clock(clock.clone());
    // The estimate is not what is checked.
    for part in &table.parts {
        part.counted_at.store(clock.now(), Ordering::Relaxed);
    }
    Arc::new(table)
}

/// Runs a model in every way.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.max_branches = 100_000;
    builder.check(run);
}

fn user(id: usize) -> Identity {
    Identity::user(&id.to_string())
}

impl Table {
    /// As the store decides.
    fn decide(&self, check: &Check<'_>) -> Vec<Status> {
        match self.decide_one(check) {
            Some((.., status)) => vec![status],
            None => self.row(check).decide(false).statuses.to_vec(),
        }
    }

    fn admits(&self, user: &Identity, limits: &Limits, cost: u32) -> bool {
        let check = Check::new(user, limits).cost(cost);
        self.decide(&check).iter().all(Status::is_allowed)
    }

    /// What is left under each policy.
    fn left(&self, user: &Identity, limits: &Limits) -> Vec<u32> {
        let statuses = self.decide(&Check::new(user, limits).cost(0));
        statuses.iter().map(Status::remaining).collect()
    }

    /// Every key that stands in the table, each of which must do so once.
    fn assert_sound(&self) {
        let places = self.buckets.iter().flat_map(Bucket::places);
        let counts = places.map(|place| place.look());
        let mut seen = HashSet::new();
        for count in counts.filter(|count| count.tag & Count::KEY != 0) {
            assert!(seen.insert(count.tag & Count::KEY), "a key stands twice");
        }
    }
}

/// Runs both at once, and says what they returned.
fn both<A: 'static, B: 'static>(
    one: impl FnOnce() -> A + 'static,
    other: impl FnOnce() -> B + 'static,
) -> (A, B) {
    let one = thread::spawn(one);
    let other = other();
    (one.join().expect("no panic"), other)
}

#[test]
fn of_two_first_checks_a_limit_of_one_admits_one() {
    model(|| {
        let table = table(&Hand::at(NOW));
        let check = |table: Arc<Table>| {
            let limits = Quota::fixed_window(1, DAY).into();
            move || table.admits(&user(0), &limits, 1)
        };
        let (one, other) = both(check(table.clone()), check(table.clone()));
        assert!(one != other, "one of them is admitted");
        table.assert_sound();
    });
}

/// A full table of users: user 0 has spent one, one user of the other bucket two, and all others
/// three. So user 0 is evicted first, and comes back into the other bucket.
fn full(quota: Quota) -> (Arc<Table>, Limits) {
    full_with(quota, 1)
}

/// A full table in which user 0 has spent `least`, one user of the other bucket one more, and all
/// others two more.
fn full_with(quota: Quota, least: u32) -> (Arc<Table>, Limits) {
    let table = table(&Hand::at(NOW));
    let limits = Limits::from(quota);
    let all = 0..2 * SLOTS_PER_BUCKET;
    for id in all.clone() {
        assert!(table.admits(&user(id), &limits, least + u32::from(id > 0)));
    }
    let bucket = |id| {
        let (user, policy) = (user(id), &limits.policies()[0]);
        let key = Key(Table::hash(&Check::new(&user, &limits)) ^ policy.fingerprint());
        table.find(key).map(|place| ptr::from_ref(place.bucket))
    };
    let next = all.clone().find(|id| bucket(*id) != bucket(0));
    for id in all.skip(1).filter(|id| Some(*id) != next) {
        assert!(table.admits(&user(id), &limits, 1));
    }
    (table, limits)
}

const NEWCOMER: usize = 100;

/// Runs a model for a count that is charged under a lock, and for one that is not.
fn model_both(run: fn(Quota)) {
    for quota in [Quota::fixed_window(4, DAY), Quota::token_bucket(4, DAY)] {
        model(move || run(quota));
    }
}

#[test]
fn a_charge_to_a_count_that_is_evicted_meanwhile_is_not_lost() {
    model_both(|quota| {
        let (table, limits) = full(quota);
        let (evicting, same) = (table.clone(), limits.clone());
        let evict = move || evicting.admits(&user(NEWCOMER), &same, 4);
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 3);
        assert_eq!(both(evict, charge), (true, true));

        assert_eq!(table.left(&user(NEWCOMER), &limits), [0]);
        assert!(table.left(&user(0), &limits) <= vec![1]);
        table.assert_sound();
    });
}

#[test]
fn a_count_that_is_evicted_and_comes_back_meanwhile_is_charged_where_it_stands() {
    model_both(|quota| {
        let (table, limits) = full(quota);
        let (evicting, same) = (table.clone(), limits.clone());
        let evict_and_return = move || {
            let evicted = evicting.admits(&user(NEWCOMER), &same, 4);
            evicted && evicting.admits(&user(0), &same, 2)
        };
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 2);
        let (returned, charged) = both(evict_and_return, charge);
        // Of the four that user 0 may spend, one was spent before, unless that is forgotten.
        assert!(returned || charged, "two more fit once");
        assert_eq!(table.left(&user(NEWCOMER), &limits), [0]);
        let most = if returned && charged { 0 } else { 2 };
        assert!(table.left(&user(0), &limits) <= vec![most]);
        table.assert_sound();
    });
}

/// Evicts user 0 by a newcomer of the same cost while user 0 is charged: the clock stands still, so
/// that both counts are the same word.
#[test]
fn evicted_slot_with_equal_state_is_not_charged() {
    for (limit, cost) in [(4, 1), (4, 3), (8, 1)] {
        model(move || {
            let (table, limits) = full(Quota::token_bucket(limit, DAY));
            let check = |id, cost| {
                let (table, limits) = (table.clone(), limits.clone());
                move || table.admits(&user(id), &limits, cost)
            };
            let charged = both(check(NEWCOMER, 1), check(0, cost));
            assert_eq!(charged, (true, true));
            // The newcomer's count may be evicted in its turn, but nothing else is charged to it.
            assert!(table.left(&user(NEWCOMER), &limits) >= vec![limit - 1]);
            table.assert_sound();
        });
    }
}

/// Like the test above, but the newcomer is charged once more, up to the word that user 0 had.
#[test]
fn evicted_slot_that_reaches_the_same_state_is_not_charged() {
    model(|| {
        let (table, limits) = full_with(Quota::token_bucket(4, DAY), 2);
        let (evicting, same) = (table.clone(), limits.clone());
        let evict_and_charge = move || {
            let evicted = evicting.admits(&user(NEWCOMER), &same, 1);
            evicted && evicting.admits(&user(NEWCOMER), &same, 1)
        };
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 2);
        assert_eq!(both(evict_and_charge, charge), (true, true));
        assert!(table.left(&user(NEWCOMER), &limits) >= vec![2]);
        table.assert_sound();
    });
}

/// A count of four a day that is charged without a lock, of which so many are spent.
fn compact(spent: u32) -> (Arc<Table>, Limits) {
    let (table, limits) = (table(&Hand::at(NOW)), Quota::token_bucket(4, DAY).into());
    assert!(table.admits(&user(0), &limits, spent));
    (table, limits)
}

#[test]
fn of_two_charges_without_a_lock_none_is_lost() {
    model(|| {
        let (table, limits) = compact(1);
        let check = |table: &Arc<Table>, cost| {
            let (table, limits) = (table.clone(), limits.clone());
            move || table.admits(&user(0), &limits, cost)
        };
        assert_eq!(both(check(&table, 1), check(&table, 1)), (true, true));
        assert_eq!(table.left(&user(0), &limits), [1]);
        let (one, other) = both(check(&table, 1), check(&table, 1));
        assert!(one != other, "one of them is admitted");
        assert_eq!(table.left(&user(0), &limits), [0]);
    });
}

#[test]
fn what_was_decided_by_itself_is_never_read_without_its_mark() {
    model(|| {
        let (table, limits) = compact(1);
        let (before, marked) = read(&table, &limits);
        assert!(!marked, "the store knows of it");
        let decided = {
            let (table, limits) = (table.clone(), limits.clone());
            move || {
                table.row(&Check::new(&user(0), &limits)).decide(true);
            }
        };
        let reading = {
            let (table, limits) = (table.clone(), limits.clone());
            move || read(&table, &limits)
        };
        let ((state, marked), ()) = both(reading, decided);
        assert!(state == before || marked, "what is new is marked");
        let (state, marked) = read(&table, &limits);
        assert!(state != before && marked);
    });
}

/// What is kept of a user, and whether it is marked.
fn read(table: &Table, limits: &Limits) -> (State, bool) {
    let (_, counts) = table.read(&Check::new(&user(0), limits));
    counts[0]
}

#[test]
fn a_charge_counts_after_a_reset_or_is_forgotten_with_the_others() {
    model(|| {
        let (table, limits) = compact(2);
        let (charging, same) = (table.clone(), limits.clone());
        let charge = move || charging.admits(&user(0), &same, 1);
        let (resetting, same) = (table.clone(), limits.clone());
        let reset_and_charge = move || {
            resetting.row(&Check::new(&user(0), &same)).clear();
            assert!(resetting.admits(&user(0), &same, 2));
        };
        assert!(both(charge, reset_and_charge).0);
        assert!([[1], [2]].contains(&table.left(&user(0), &limits)[..].try_into().unwrap()));
        table.assert_sound();
    });
}

#[test]
fn a_charge_without_a_lock_and_one_of_two_policies_are_all_or_nothing() {
    model(|| {
        let table = table(&Hand::at(NOW));
        let four = Policy::new("four", Quota::token_bucket(4, DAY));
        let nine = Policy::new("nine", Quota::token_bucket(9, DAY));
        let alone = Limits::new([four.clone()]).expect("a name");
        let with_nine = Limits::new([nine, four]).expect("two names");
        assert!(table.admits(&user(0), &with_nine, 2));
        let check = |limits: &Limits| {
            let (table, limits) = (table.clone(), limits.clone());
            move || table.admits(&user(0), &limits, 2)
        };
        let (one, other) = both(check(&alone), check(&with_nine));
        assert!(one != other, "one of them is admitted");
        let left = if other { [5, 0] } else { [7, 0] };
        assert_eq!(table.left(&user(0), &with_nine), left);
        table.assert_sound();
    });
}

/// Two policies in either order: one for two and one for three.
fn opposite() -> [Limits; 2] {
    let two = Policy::new("two", Quota::fixed_window(2, DAY));
    let three = Policy::new("three", Quota::fixed_window(3, DAY));
    let orders = [[two.clone(), three.clone()], [three, two]];
    orders.map(|policies| Limits::new(policies).expect("two names"))
}

/// Two checks of both policies, of which only one fits, after `spent`.
fn opposite_checks(spent: u32, cost: u32) {
    let table = table(&Hand::at(NOW));
    let [limits, reversed] = opposite();
    if spent > 0 {
        // Each of the counts has a bucket to itself.
        assert!(table.admits(&user(0), &limits, spent));
    }
    let check = |limits: &Limits| {
        let (table, limits) = (table.clone(), limits.clone());
        move || table.admits(&user(0), &limits, cost)
    };
    let (one, other) = both(check(&limits), check(&reversed));
    assert!(one != other, "one of them is admitted");
    assert_eq!(table.left(&user(0), &limits), [0, 1], "all or nothing");
    table.assert_sound();
}

#[test]
fn first_checks_of_policies_in_opposite_order_are_all_or_nothing() {
    model(|| opposite_checks(0, 2));
}

#[test]
fn later_checks_of_policies_in_opposite_order_are_all_or_nothing() {
    model(|| opposite_checks(1, 1));
}

/// One policy of each algorithm, that admits one by [`NOW`], and after two seconds one more.
fn one_in_a_second() -> [Policy; 3] {
    let second = Duration::from_secs(1);
    let quotas = [
        Quota::token_bucket(1, second),
        Quota::sliding_window(1, second),
        Quota::fixed_window(1, second),
    ];
    quotas.map(|quota| Policy::new("second", quota))
}

/// One check of two, of which one sees that a clock has moved on to when one more fits.
fn moving_clock(limits: &Limits) {
    let clock = Hand::at(NOW);
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
    let (early, late) = both(early, late);
    let admitted = [early, late, table.admits(&user(0), limits, 1)];
    let times = admitted.iter().filter(|admitted| **admitted).count();
    assert_eq!(times, 1, "{admitted:?}");
    table.assert_sound();
}

#[test]
fn a_clock_that_moves_before_the_lock_is_taken_mints_nothing() {
    for policy in one_in_a_second() {
        model(move || moving_clock(&Limits::new([policy.clone()]).expect("a name")));
    }
}

#[test]
fn a_charge_that_is_held_up_while_another_is_made_is_not_denied_for_what_is_there_by_then() {
    model(|| {
        let token = 86_400 * SECOND / 4;
        let clock = Hand::at(NOW - token / 2);
        let (table, limits) = (table(&clock), Quota::token_bucket(4, DAY).into());
        assert!(table.admits(&user(0), &limits, 3));
        clock.set(NOW);
        let check = || {
            let (table, limits) = (table.clone(), limits.clone());
            move || table.admits(&user(0), &limits, 1)
        };
        let (early, late) = (check(), check());
        let late = move || {
            // Most of what was spent is there again.
            clock.set(NOW + 5 * token / 2);
            late()
        };
        assert_eq!(both(early, late), (true, true));
    });
}

#[test]
fn a_clock_that_moves_before_two_locks_are_taken_mints_nothing() {
    for policy in one_in_a_second() {
        model(move || {
            let day = Policy::new("day", Quota::fixed_window(100, DAY));
            moving_clock(&Limits::new([policy.clone(), day]).expect("two names"));
        });
    }
}
