use super::super::open_charges::OpenChargeMap;
use super::huge_pages;
use super::set::{Set, SlotRef};
use super::slot::Key;
use super::sync::{AtomicI64, AtomicU64, Ordering};
use crate::clock::{Clock, SystemClock};
use crate::metrics::TableMeter;

/// The table's memory for each entry of its capacity. With 64 bytes, two slots of five are taken when the
/// table is at its capacity: a simulation of 50 tables of a million entries evicted 2 of 50 million live
/// entries (with 48 bytes: 41 in a million). There are at least two sets, so that the policies of any
/// check fit in.
const BYTES_PER_ENTRY: usize = 64;

/// Both candidate sets of a key are in one group of 16 KiB, so that one TLB entry of most processors
/// covers both. With groups of 4 KiB, some of which are much fuller than others, seven times as many live
/// entries were evicted.
const MAX_SETS_PER_GROUP: usize = 128;

/// The time between two estimates of a shard's live entries, in microseconds, and the number of sets that
/// are sampled.
const ESTIMATE_INTERVAL: u64 = 1_000_000;
const SAMPLED_SETS: usize = 1_024;

/// The approximate number of shards, and the least number of sets in one.
const SHARDS: usize = 64;
const MIN_SETS_PER_SHARD: usize = 512;

/// The sets of a table, with its clock and its metrics.
pub(super) struct Storage {
    sets: Box<[Set]>,
    /// A power of two that divides the number of sets.
    sets_per_group: usize,
    pub(super) clock: TableClock,
    pub(super) shards: Box<[Shard]>,
    /// A power of two. The last shard may be smaller.
    sets_per_shard: usize,
    pub(super) meter: TableMeter,
    pub(super) open_charges: OpenChargeMap,
}

/// A part of the table with an estimate of its live entries.
#[derive(Default)]
pub(super) struct Shard {
    live: AtomicI64,
    /// When the estimate was made, in microseconds since the Unix epoch.
    pub(super) estimated_at: AtomicU64,
}

/// A table's clock. The system's clock is not boxed, so that its readings are inlined.
pub(super) enum TableClock {
    System(SystemClock),
    Custom(Box<dyn Clock>),
}

impl TableClock {
    pub(super) fn now(&self) -> u64 {
        match self {
            Self::System(clock) => clock.now(),
            Self::Custom(clock) => clock.now(),
        }
    }

    /// Returns the time of the cached clock: not later than the next result of [`now`](TableClock::now), and
    /// at most [`MAX_LAG`](crate::clock::MAX_LAG) earlier.
    #[inline]
    pub(super) fn cached_now(&self) -> u64 {
        match self {
            Self::System(clock) => clock.cached_now(),
            Self::Custom(clock) => clock.now(),
        }
    }
}

impl Storage {
    pub(super) fn new(capacity: usize, store: &'static str) -> Self {
        let bytes = capacity.saturating_mul(BYTES_PER_ENTRY);
        let sets = bytes.div_ceil(size_of::<Set>()).max(2);
        let sets_per_group = sets.next_power_of_two().min(MAX_SETS_PER_GROUP);
        let sets = sets.next_multiple_of(sets_per_group);
        let sets_per_shard = (sets / SHARDS).next_power_of_two().max(MIN_SETS_PER_SHARD);
        let shards = (0..sets.div_ceil(sets_per_shard)).map(|_| Shard::default());
        Self {
            sets: huge_pages::allocate(sets),
            sets_per_group,
            clock: TableClock::System(SystemClock::new()),
            shards: shards.collect(),
            sets_per_shard,
            meter: TableMeter::new(store),
            open_charges: OpenChargeMap::default(),
        }
    }

    /// Returns the two different sets in which a key may be.
    #[inline]
    pub(super) fn candidate_sets(&self, key: Key) -> [&Set; 2] {
        let first = key.first_set(self.sets.len());
        let second = key.second_set(first, self.sets_per_group);
        [first, second].map(|set| &self.sets[set])
    }

    #[inline(always)]
    pub(super) fn find(&self, key: Key) -> Option<SlotRef<'_>> {
        let first = &self.sets[key.first_set(self.sets.len())];
        first.find_near(key).or_else(|| self.find_far(key))
    }

    /// Finds a key anywhere in its candidate sets. One key in ten is found only here; inlining this would
    /// slow down the search for the others.
    #[inline(never)]
    fn find_far(&self, key: Key) -> Option<SlotRef<'_>> {
        let mut sets = self.candidate_sets(key).into_iter();
        sets.find_map(|set| set.find(key))
    }

    /// Updates the estimate of live entries in a key's shard, at most once a second. Checks call this, so
    /// the table needs no background task.
    #[inline(always)]
    pub(super) fn update_estimate(&self, key: Key, now: u64) {
        let shard = key.first_set(self.sets.len()) >> self.sets_per_shard.trailing_zeros();
        let estimated_at = self.shards[shard].estimated_at.load(Ordering::Relaxed);
        if now.abs_diff(estimated_at) >= ESTIMATE_INTERVAL {
            self.estimate(shard, estimated_at, now);
        }
    }

    #[cold]
    fn estimate(&self, shard: usize, estimated_at: u64, now: u64) {
        let (order, first) = (Ordering::Relaxed, shard * self.sets_per_shard);
        let shard = &self.shards[shard];
        if shard
            .estimated_at
            .compare_exchange(estimated_at, now, order, order)
            .is_err()
        {
            return;
        }
        let sets = &self.sets[first..self.sets.len().min(first + self.sets_per_shard)];
        let sampled = sets.len().min(SAMPLED_SETS);
        let slots = sets[..sampled].iter().flat_map(Set::slots);
        let is_live = |slot: &SlotRef<'_>| !slot.load().state().is_expired(now);
        let live = (slots.filter(is_live).count() * sets.len() / sampled) as i64;
        self.meter.live(live - shard.live.swap(live, order));
    }

    /// Returns all slots of the table.
    #[cfg(all(test, tollgate_loom))]
    pub(super) fn slots(&self) -> impl Iterator<Item = SlotRef<'_>> {
        self.sets.iter().flat_map(Set::slots)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let live = self
            .shards
            .iter()
            .map(|shard| shard.live.load(Ordering::Relaxed));
        self.meter.live(-live.sum::<i64>());
    }
}
