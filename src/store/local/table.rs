//! A hash table of a fixed size that evicts counts when it is full.
//!
//! Counts of 24 bytes are kept in buckets of five, which fill two cache lines with their lock. A key
//! may be in either of two buckets: with two and a half slots for each count that the table has
//! room for, hardly ever are all ten of a key's slots taken by live counts (Azar, Broder, Karlin
//! and Upfal, "Balanced Allocations", 1994). Most keys are in their first bucket, which is searched
//! first, and in its first cache line, which holds all that a check without the lock needs.
//!
//! A check of one policy that is a token bucket, which nearly every check is, takes no lock if its
//! count was found. All others lock the buckets of their counts.
//!
//! `model` runs the table under a model checker, in every interleaving of two threads.

mod bucket;
#[cfg(all(test, tollgate_loom))]
mod model;
mod row;
mod slot;

use std::{fmt, hint};

use self::bucket::{Bucket, Place};
use self::row::Row;
use self::slot::Count;
use super::pages;
use super::sync::{AtomicI64, AtomicU64, Ordering};
use crate::clock::{Clock, LATE, SystemClock};
use crate::metrics::TableMeter;
use crate::quota::{Charge, Quota, State, Status};
use crate::store::Check;
use crate::store::verdict::PerPolicy;

/// A denial whose wait is longer than this, in microseconds, may use the cached clock, which lags by at
/// most [`LATE`].
const LONG: u64 = 1_000_000;

/// The table's memory for each count that it has room for. At 64 bytes two slots of five are taken
/// when the table holds as many live counts as it was made for: a simulation of 50 tables of a million
/// counts evicted 2 live counts in 50 million (at 48 bytes: 41 in a million). There are two buckets at
/// least: any one check's policies fit in them.
const BYTES_PER_COUNT: usize = 64;

/// Both buckets of a key are in one page of 16 KiB, so that most processors translate one address and
/// not two. In pages of 4 KiB, of which some are much fuller than others, seven times as many live
/// counts were evicted.
const BUCKETS_PER_PAGE: usize = 128;

/// The time between two counts of a part's live slots, in microseconds, and the number of buckets that
/// are sampled for it.
const COUNTED_EVERY: u64 = 1_000_000;
const BUCKETS_COUNTED: usize = 1_024;

/// The approximate number of parts, and the smallest number of buckets in one.
const PARTS: usize = 64;
const SMALLEST_PART: usize = 512;

pub(crate) struct Table {
    buckets: Box<[Bucket]>,
    /// Buckets per page, a power of two that divides their number. Both buckets of a key are in one
    /// page.
    page: usize,
    clock: TableClock,
    parts: Box<[Part]>,
    /// Buckets per part, a power of two; the last part may be smaller.
    part_size: usize,
    meter: TableMeter,
}

enum TableClock {
    System(SystemClock),
    Given(Box<dyn Clock>),
}

/// A part of the table, whose live counts are estimated apart.
#[derive(Default)]
struct Part {
    /// The last estimate, and its time in microseconds.
    live: AtomicI64,
    counted_at: AtomicU64,
}

impl TableClock {
    fn now(&self) -> u64 {
        match self {
            Self::System(clock) => clock.now(),
            Self::Given(clock) => clock.now(),
        }
    }

    /// A cached reading: never later than what [`now`](TableClock::now) returns afterwards.
    #[inline]
    fn recently(&self) -> u64 {
        match self {
            Self::System(clock) => clock.recently(),
            Self::Given(clock) => clock.now(),
        }
    }
}

/// The hash of an identity, a scope, a policy's name and its quota.
#[derive(Clone, Copy)]
struct Key(u128);

impl Key {
    fn tag(self) -> u64 {
        self.0 as u64 & Count::KEY
    }

    /// The index of its first bucket.
    fn first(self, buckets: usize) -> usize {
        scaled((self.0 >> 64) as u32, buckets)
    }
}

impl Table {
    pub(crate) fn with_capacity(capacity: usize, store: &'static str) -> Self {
        let bytes = capacity.saturating_mul(BYTES_PER_COUNT);
        let buckets = bytes.div_ceil(size_of::<Bucket>()).max(2);
        let page = buckets.next_power_of_two().min(BUCKETS_PER_PAGE);
        let buckets = buckets.next_multiple_of(page);
        let part_size = (buckets / PARTS).next_power_of_two().max(SMALLEST_PART);
        Self {
            buckets: pages::filled(buckets),
            page,
            clock: TableClock::System(SystemClock::new()),
            parts: (0..buckets.div_ceil(part_size))
                .map(|_| Part::default())
                .collect(),
            part_size,
            meter: TableMeter::new(store),
        }
    }

    pub(crate) fn set_clock(&mut self, clock: impl Clock) {
        self.clock = TableClock::Given(Box::new(clock));
    }

    /// Reads the time, and each policy's state and whether it is marked. Not atomic: another check may
    /// charge between two policies.
    pub(crate) fn read(&self, check: &Check<'_>) -> (u64, PerPolicy<(State, bool)>) {
        let (hash, now) = (Self::hash(check), self.clock.recently());
        let mut read = PerPolicy::new();
        for policy in check.limits.policies() {
            let key = Key(hash ^ policy.fingerprint());
            let count = self.find(key).map_or(Count::NOTHING, |place| {
                // A marked state is carried to a store, so it is read again under the lock, where it
                // cannot be another key's.
                let seen = place.slot.compact(key).map(|seen| seen.count());
                if let Some(unmarked) = seen.filter(|count| !count.is_marked(now)) {
                    return unmarked;
                }
                let _locked = place.bucket.lock();
                if place.slot.has(key) {
                    place.look()
                } else {
                    Count::NOTHING
                }
            });
            read.push((count.state(), count.is_marked(now)));
        }
        (now, read)
    }

    /// Locks the counts of a check's policies, to be read and written at one instant.
    pub(crate) fn row<'a>(&'a self, check: &'a Check<'a>) -> Row<'a> {
        let hash = Self::hash(check);
        let policies = check.limits.policies().iter();
        Row::lock(
            self,
            check,
            policies.map(|policy| Key(hash ^ policy.fingerprint())),
        )
    }

    /// Decides the common case without a lock: one policy, a token bucket, whose count was found and
    /// has nothing to join. `None` for any other check. Reads the exact clock only where the lag of the
    /// cached one could change the decision or what is told of it.
    #[inline(always)]
    pub(crate) fn decide_one(&self, check: &Check<'_>) -> Option<(u64, State, Status)> {
        let [policy] = check.limits.policies() else {
            return None;
        };
        if !check.is_plain() {
            return None;
        }
        let bucket = Count::compact(policy.quota())?;
        let key = Key(Self::hash(check) ^ policy.fingerprint());
        let slot = self.find(key)?.slot;
        let mut failures = 0;
        let (state, charge, now, is_exact) = loop {
            // The slot is loaded before the clock is read, so that `now` is not older than the state.
            let Some(seen) = slot.compact(key) else {
                if !slot.is_held() || failures == MOST_FAILURES {
                    return None;
                }
                give_way(failures);
                failures += 1;
                continue;
            };
            let state = seen.state();
            let (mut now, mut is_exact) = (self.clock.recently(), false);
            if bucket.is_ahead(state, now) {
                return None;
            }
            let mut charge = bucket.charge(state, now, check.cost);
            let is_clear = check.cost == 1 && bucket.denies_for(&charge, LONG);
            if charge.next == state && check.cost > 0 && !is_clear {
                // The lag of the cached clock may deny a cost that fits.
                (now, is_exact) = (self.clock.now(), true);
                charge = bucket.charge(state, now, check.cost);
            }
            if charge.next == state || seen.replace(charge.next)? {
                break (state, charge, now, is_exact);
            }
            if failures == MOST_FAILURES {
                return None;
            }
            give_way(failures);
            failures += 1;
        };
        self.estimate(key, now);
        let late = if is_exact { 0 } else { LATE };
        let status = bucket.status_if_exact(charge, late);
        // Always `Some` for a denial: either the clock is exact, or the next token is over a second away.
        let status = status.unwrap_or_else(|| self.report(policy.quota(), &charge));
        Some((now, state, status))
    }

    /// The status after a charge by the exact clock.
    #[cold]
    fn report(&self, quota: &Quota, charge: &Charge) -> Status {
        let (_, status) = quota.step(charge.next, self.clock.now(), 0);
        status
    }

    #[inline(always)]
    fn hash(check: &Check<'_>) -> u128 {
        // The fingerprints are hashes of names that no client chooses.
        check.identity.keyed_hash() ^ check.scope.fingerprint()
    }

    /// The two different buckets in which a key may be.
    #[inline]
    fn buckets(&self, key: Key) -> [&Bucket; 2] {
        let first = key.first(self.buckets.len());
        let other = 1 + scaled((key.0 >> 96) as u32, self.page - 1);
        [first, first ^ other].map(|bucket| &self.buckets[bucket])
    }

    #[inline(always)]
    fn find(&self, key: Key) -> Option<Place<'_>> {
        let first = &self.buckets[key.first(self.buckets.len())];
        first.find_near(key).or_else(|| self.find_far(key))
    }

    /// Not inlined: one key in ten is found here, and the others are found sooner without this code.
    #[inline(never)]
    fn find_far(&self, key: Key) -> Option<Place<'_>> {
        let mut buckets = self.buckets(key).into_iter();
        buckets.find_map(|bucket| bucket.find(key))
    }

    /// Renews the estimate of live counts of a key's part, at most once a second. Checks do this
    /// themselves, so the table needs no sweeper.
    #[inline(always)]
    fn estimate(&self, key: Key, now: u64) {
        let part = key.first(self.buckets.len()) >> self.part_size.trailing_zeros();
        let counted_at = self.parts[part].counted_at.load(Ordering::Relaxed);
        if now.abs_diff(counted_at) >= COUNTED_EVERY {
            self.count(part, counted_at, now);
        }
    }

    #[cold]
    fn count(&self, part: usize, counted_at: u64, now: u64) {
        let (order, first) = (Ordering::Relaxed, part * self.part_size);
        let part = &self.parts[part];
        if part
            .counted_at
            .compare_exchange(counted_at, now, order, order)
            .is_err()
        {
            return;
        }
        let buckets = &self.buckets[first..self.buckets.len().min(first + self.part_size)];
        let counted = buckets.len().min(BUCKETS_COUNTED);
        let places = buckets[..counted].iter().flat_map(Bucket::places);
        let live = places
            .filter(|place| !place.look().state().is_expired(now))
            .count();
        let live = (live * buckets.len() / counted) as i64;
        self.meter.live(live - part.live.swap(live, order));
    }
}

/// After this many failed exchanges a check takes the bucket's lock, which is fair.
const MOST_FAILURES: u32 = 8;

/// Backs off exponentially after a failed exchange, so that the winning core keeps the cache line
/// instead of the two cores passing it back and forth (Dice, Hendler and Mirsky, "Lightweight
/// Contention Management for Efficient Compare-and-Swap Operations", 2013). Two threads that check
/// nothing but one count get their decisions twice as fast.
#[cold]
fn give_way(failures: u32) {
    for _ in 0..32 << failures.min(3) {
        hint::spin_loop();
    }
    // The model checker has to know that another thread must go on.
    #[cfg(all(test, tollgate_loom))]
    super::sync::yield_now();
}

/// A hash as an index below `count`.
fn scaled(hash: u32, count: usize) -> usize {
    ((u64::from(hash) * count as u64) >> 32) as usize
}

impl Drop for Table {
    fn drop(&mut self) {
        let live = self
            .parts
            .iter()
            .map(|part| part.live.load(Ordering::Relaxed));
        self.meter.live(-live.sum::<i64>());
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}
