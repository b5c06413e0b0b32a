//! A hash table of a fixed size, in which forgetting is part of the plan.
//!
//! Slots of 24 bytes stand in buckets of four, and a key may stand in either of two buckets: with
//! two slots for each count that the table has room for, hardly ever are all eight of a key's
//! slots taken by live counts (Azar, Broder, Karlin and Upfal, "Balanced Allocations", 1994). The
//! table is cut into shards by identity, each with a lock, so that all policies of a check are
//! decided under one.

use std::fmt;
use std::hash::Hash;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::clock::{Clock, SystemClock};
use crate::metrics::TableMeter;
use crate::quota::State;
use crate::random;
use crate::store::Check;
use crate::store::verdict::{PerPolicy, Verdict};

const SLOTS_PER_BUCKET: usize = 4;

/// Smaller shards would fill unevenly.
const BUCKETS_PER_SHARD: usize = 512;
const MOST_SHARDS: usize = 64;

/// A shard in use counts its live slots so often, in microseconds, in so many of its buckets.
const COUNTED_EVERY: u64 = 1_000_000;
const BUCKETS_COUNTED: usize = 1_024;

pub(crate) struct Table {
    shards: Box<[Mutex<Shard>]>,
    /// Unguessable, so that nobody can choose values that collide.
    secret: [u64; 2],
    clock: Box<dyn Clock>,
    meter: TableMeter,
}

struct Shard {
    buckets: Box<[Bucket]>,
    /// How many of its counts were live when they were last counted.
    live: i64,
    counted_at: u64,
}

type Bucket = [Slot; SLOTS_PER_BUCKET];

#[derive(Clone, Copy)]
struct Slot {
    /// From the top: 55 bits that tell the key, 8 that say how much of the quota was used when it
    /// was last charged, and one for a mark.
    tag: u64,
    state: State,
}

const EMPTY: Slot = Slot {
    tag: 0,
    state: State::from_words([0, 0]),
};

impl Slot {
    const KEY: u64 = !0x1ff;
    const MARK: u64 = 1;

    /// What makes one count more worth keeping than another: first the part of its quota that it
    /// had used, so that quotas of any period can stand side by side; then what is left of it.
    fn debt(&self) -> (u8, [u64; 2]) {
        ((self.tag >> 1) as u8, self.state.words())
    }
}

/// Which bucket of a shard, and which slot of the bucket.
type Place = (usize, usize);

/// The hash of an identity, a scope, a policy's name and its quota.
#[derive(Clone, Copy)]
struct Key(u128);

impl Key {
    fn tag(self) -> u64 {
        self.0 as u64 & Slot::KEY
    }

    /// The two buckets, which differ, of `count`.
    fn buckets(self, count: usize) -> [usize; 2] {
        let first = scaled((self.0 >> 64) as u32, count);
        let step = 1 + scaled((self.0 >> 96) as u32, count - 1);
        [first, (first + step) % count]
    }
}

/// A hash as an index below `count`.
fn scaled(hash: u32, count: usize) -> usize {
    ((u64::from(hash) * count as u64) >> 32) as usize
}

impl Table {
    pub(crate) fn with_capacity(capacity: usize, store: &'static str) -> Self {
        // Two slots for each count; two buckets at least, which hold any one check's policies.
        let buckets = capacity.div_ceil(SLOTS_PER_BUCKET / 2).max(2);
        let shards = (buckets / BUCKETS_PER_SHARD).clamp(1, MOST_SHARDS);
        let buckets = buckets.div_ceil(shards);
        let shard = || Shard {
            buckets: vec![[EMPTY; SLOTS_PER_BUCKET]; buckets].into(),
            live: 0,
            counted_at: 0,
        };
        Self {
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            secret: [random::number(), random::number()],
            clock: Box::new(SystemClock::new()),
            meter: TableMeter::new(store),
        }
    }

    pub(crate) fn set_clock(&mut self, clock: impl Clock) {
        self.clock = Box::new(clock);
    }

    /// Locks the counts of a check's policies, to be read and written at one instant.
    pub(crate) fn row<'a>(&'a self, check: &Check<'a>) -> Row<'a> {
        let mut hasher = SipHasher13::new_with_keys(self.secret[0], self.secret[1]);
        check.identity.hash(&mut hasher);
        // The fingerprints are hashes too, of what no client chooses.
        let hash = hasher.finish128().as_u128() ^ check.scope.fingerprint();
        let policies = check.limits.policies().iter();
        let keys: PerPolicy<Key> = policies
            .map(|policy| Key(hash ^ policy.fingerprint()))
            .collect();

        // The bits that matter least to the second bucket.
        let shard = scaled(((hash >> 96) as u32).swap_bytes(), self.shards.len());
        let shard = &self.shards[shard];
        // Should a clock or a recorder panic meanwhile, every state is still one.
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        // Not before: another check could come between, and time would seem to step back.
        let now = self.clock.now();
        let places = keys.iter().map(|key| shard.find(*key)).collect();
        Row {
            table: self,
            check: *check,
            shard,
            keys,
            places,
            now,
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let shards = self.shards.iter_mut();
        let shards = shards.map(|shard| shard.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.meter
            .live(-shards.map(|shard| shard.live).sum::<i64>());
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// The counts of one check's policies, locked.
pub(crate) struct Row<'a> {
    table: &'a Table,
    check: Check<'a>,
    shard: MutexGuard<'a, Shard>,
    keys: PerPolicy<Key>,
    places: PerPolicy<Option<Place>>,
    now: u64,
}

impl Row<'_> {
    /// Microseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Each policy's state, in order.
    pub(crate) fn states(&self) -> impl Iterator<Item = State> {
        self.slots().map(|slot| slot.state)
    }

    /// Whether each policy's state is marked, in order.
    pub(crate) fn marks(&self) -> impl Iterator<Item = bool> {
        self.slots()
            .map(|slot| slot.tag & Slot::MARK != 0 && !slot.state.is_spent(self.now))
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.places
            .iter()
            .map(|place| place.map_or(&EMPTY, |(bucket, slot)| &self.shard.buckets[bucket][slot]))
    }

    /// Keeps a policy's state, with or without a mark.
    pub(crate) fn set(&mut self, policy: usize, state: State, mark: bool) {
        let place = match self.places[policy] {
            Some(place) => place,
            None if state.is_spent(self.now) => return,
            None => self.make_room(self.keys[policy]),
        };
        self.places[policy] = Some(place);
        let used = self.check.limits.policies()[policy]
            .quota()
            .used(state, self.now);
        let tag = self.keys[policy].tag() | u64::from(used) << 1 | u64::from(mark);
        self.shard.buckets[place.0][place.1] = Slot { tag, state };
    }

    /// Decides the check; marks the counts that it charges, or denies by, if asked to.
    pub(crate) fn decide(&mut self, mark: bool) -> Verdict {
        let held: PerPolicy<State> = self.states().collect();
        let step = self.check.decide(self.now, held.iter().copied());
        let mark_all = mark && !step.verdict.allowed;
        for (policy, (state, held)) in step.states().iter().zip(&held).enumerate() {
            if state != held || mark_all {
                self.set(policy, *state, mark);
            }
        }
        self.estimate();
        step.verdict
    }

    /// Gives back what the check was charged: many times over only where this process alone
    /// counted. A mark stays.
    pub(crate) fn refund(&mut self) {
        let check = self.check;
        let held: PerPolicy<(State, bool)> = self.states().zip(self.marks()).collect();
        for (policy, ((state, mark), quota)) in held.into_iter().zip(check.quotas()).enumerate() {
            let cost = if mark {
                check.cost_under(quota)
            } else {
                check.cost
            };
            self.set(policy, quota.refund(state, self.now, cost), mark);
        }
    }

    /// Forgets every policy's state.
    pub(crate) fn clear(&mut self) {
        for (bucket, slot) in self.places.iter().flatten() {
            self.shard.buckets[*bucket][*slot] = EMPTY;
        }
    }

    /// Keeps the estimate of live counts, without a sweeper: each shard's when it is in use.
    pub(crate) fn estimate(&mut self) {
        let (table, shard, now) = (self.table, &mut *self.shard, self.now);
        if now.abs_diff(shard.counted_at) < COUNTED_EVERY {
            return;
        }
        shard.counted_at = now;
        let counted = shard.buckets.len().min(BUCKETS_COUNTED);
        let slots = shard.buckets[..counted].iter().flatten();
        let live = slots.filter(|slot| !slot.state.is_spent(now)).count();
        let live = (live * shard.buckets.len() / counted) as i64;
        table.meter.live(live - mem::replace(&mut shard.live, live));
    }

    /// A place for a new count: a free one in the emptier of its two buckets, else that of the
    /// least indebted count, but of none of this row's own.
    fn make_room(&mut self, key: Key) -> Place {
        let mut roomiest: (usize, Option<Place>) = (0, None);
        let mut least: Option<((u8, [u64; 2]), Place)> = None;
        for bucket in key.buckets(self.shard.buckets.len()) {
            let mut free = (0, None);
            for (index, slot) in self.shard.buckets[bucket].iter().enumerate() {
                let place = (bucket, index);
                if self.places.contains(&Some(place)) {
                    continue;
                }
                if slot.state.is_spent(self.now) {
                    free = (free.0 + 1, Some(place));
                }
                if least.is_none_or(|(debt, _)| slot.debt() < debt) {
                    least = Some((slot.debt(), place));
                }
            }
            if free.0 > roomiest.0 {
                roomiest = free;
            }
        }
        if let (_, Some(place)) = roomiest {
            return place;
        }
        self.table.meter.evicted();
        let (_, place) = least.expect("eight slots, of which this row has at most seven");
        place
    }
}

impl Shard {
    fn find(&self, key: Key) -> Option<Place> {
        key.buckets(self.buckets.len())
            .into_iter()
            .find_map(|bucket| {
                let same = |slot: &Slot| {
                    slot.tag & Slot::KEY == key.tag() && slot.state != State::default()
                };
                self.buckets[bucket]
                    .iter()
                    .position(same)
                    .map(|slot| (bucket, slot))
            })
    }
}
