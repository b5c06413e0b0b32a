use std::ptr;

use smallvec::SmallVec;

use super::{Bucket, Count, Key, Place, Table};
use crate::quota::{MAX_POLICIES, State};
use crate::store::Check;
use crate::store::local::sync::{MutexGuard, yield_now};
use crate::store::verdict::{PerPolicy, Verdict};

/// Space for both buckets of each of two new counts.
type Locked<'a> = SmallVec<[MutexGuard<'a, ()>; 4]>;

/// A key's slot, if it has one yet, and the slot's count.
#[derive(Clone, Copy)]
struct Cell<'a> {
    key: Key,
    found: Option<Place<'a>>,
    count: Count,
    /// Whether this row holds the slot. A write releases it, after which a charge without the lock
    /// may hold it.
    is_held: bool,
}

/// A slot for a new count, and the count that it holds.
#[derive(Clone, Copy)]
struct Room<'a> {
    place: Place<'a>,
    count: Count,
}

/// A key's first bucket is preferred while it has this many free slots.
const ROOMY: usize = 3;

/// The counts of one check's policies, locked.
pub(crate) struct Row<'a> {
    table: &'a Table,
    check: &'a Check<'a>,
    cells: PerPolicy<Cell<'a>>,
    locked: Locked<'a>,
    now: u64,
}

impl<'a> Row<'a> {
    pub(super) fn lock(
        table: &'a Table,
        check: &'a Check<'a>,
        keys: impl Iterator<Item = Key>,
    ) -> Self {
        let mut cells = PerPolicy::new();
        for key in keys {
            cells.push(Cell {
                key,
                found: table.find(key),
                count: Count::NOTHING,
                is_held: false,
            });
        }
        let mut row = Self {
            table,
            check,
            cells,
            locked: Locked::new(),
            now: 0,
        };
        if !row.lock_one() {
            row.lock_all();
        }
        row.hold();
        row
    }

    /// Locks the bucket of a single policy's count, the common case. False if the count has moved.
    fn lock_one(&mut self) -> bool {
        let [cell] = self.cells.as_slice() else {
            return false;
        };
        cell.found.is_some_and(|place| {
            self.locked.push(place.bucket.lock());
            place.slot.has(cell.key)
        })
    }

    /// Locks the bucket of each count that was found, and both buckets of each that was not. Tries
    /// again if a count has moved before its bucket was locked.
    fn lock_all(&mut self) {
        loop {
            self.locked.clear();
            let mut buckets = SmallVec::<[&Bucket; 2 * MAX_POLICIES]>::new();
            for cell in &self.cells {
                match cell.found {
                    Some(place) => buckets.push(place.bucket),
                    None => buckets.extend(self.table.buckets(cell.key)),
                }
            }
            // In the order of addresses, so that two checks never deadlock.
            buckets.sort_unstable_by_key(|bucket| ptr::from_ref(*bucket));
            buckets.dedup_by_key(|bucket| ptr::from_ref(*bucket));
            self.locked
                .extend(buckets.iter().map(|bucket| bucket.lock()));
            let mut moved = false;
            for cell in &mut self.cells {
                let found = self.table.find(cell.key);
                moved |= cell.found.is_some_and(|locked| {
                    !found.is_some_and(|place| ptr::eq(place.bucket, locked.bucket))
                });
                cell.found = found;
            }
            if !moved {
                break;
            }
        }
    }

    /// Holds the slots that were found, which keeps charges without the lock out.
    fn hold(&mut self) {
        for cell in &mut self.cells {
            if let Some(place) = cell.found {
                cell.is_held = place.slot.hold();
                cell.count = place.look();
            }
        }
        // Read the clock after holding the slots, so that `now` is not older than a charge that was
        // made until then.
        self.now = self.table.clock.now();
    }

    /// Microseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Each policy's state, in order.
    #[inline]
    fn states(&self) -> impl Iterator<Item = State> {
        self.cells.iter().map(|cell| cell.count.state())
    }

    /// A policy's state, and whether it is marked.
    pub(crate) fn get(&self, policy: usize) -> (State, bool) {
        let count = self.cells[policy].count;
        (count.state(), count.is_marked(self.now))
    }

    /// Keeps a policy's state, with or without a mark.
    #[inline]
    pub(crate) fn set(&mut self, policy: usize, state: State, mark: bool) {
        let Cell { key, found, .. } = self.cells[policy];
        let place = match found {
            Some(place) => place,
            None if state.is_expired(self.now) => return,
            None => self.make_room(policy),
        };
        self.cells[policy].is_held = false;
        let quota = self.check.limits.policies()[policy].quota();
        place.set(Count::new(key, quota, state, self.now, mark));
    }

    /// Decides the check; marks its counts, if asked to.
    #[inline]
    pub(crate) fn decide(&mut self, mark: bool) -> Verdict {
        let step = self.check.decide(self.now, self.states());
        for (policy, state) in step.next.iter().enumerate() {
            if mark || *state != self.cells[policy].count.state() {
                self.set(policy, *state, mark);
            }
        }
        self.estimate();
        step.verdict
    }

    /// Forgets every policy's state.
    pub(crate) fn clear(&mut self) {
        for cell in &mut self.cells {
            if let Some(place) = cell.found {
                place.set(Count::NOTHING);
                cell.is_held = false;
            }
        }
    }

    /// Keeps the estimate of live counts.
    #[inline]
    pub(crate) fn estimate(&self) {
        for cell in &self.cells {
            self.table.estimate(cell.key, self.now);
        }
    }

    /// Finds a slot for a new count, and holds it.
    #[cold]
    fn make_room(&mut self, policy: usize) -> Place<'a> {
        loop {
            let room = self.room(policy);
            // The exchange fails if the victim has been charged without the lock since.
            if room.place.slot.hold_if(room.count.word()) {
                if !room.count.state().is_expired(self.now) {
                    self.table.meter.evicted();
                }
                self.cells[policy].found = Some(room.place);
                return room.place;
            }
            yield_now();
        }
    }

    /// Picks the slot for a new count: the longest-expired slot, since the key of one that has just
    /// expired is the likeliest to come back. Among slots that were never used, one of the first bucket
    /// while that has [`ROOMY`] free slots, else one of the emptier bucket. If all are live, the victim
    /// is the count that has used the smallest part of its quota. The row's own slots are left out.
    fn room(&self, policy: usize) -> Room<'a> {
        let mut best: Option<(u64, usize, Room<'a>)> = None;
        let mut least: Option<((u8, [u64; 2]), Room<'a>)> = None;
        for bucket in self.table.buckets(self.cells[policy].key) {
            let (mut free, mut longest_spent) = (0, None::<(u64, Room<'a>)>);
            for place in bucket.places() {
                let own = |cell: &Cell| cell.found.is_some_and(|own| ptr::eq(own.slot, place.slot));
                if self.cells.iter().any(own) {
                    continue;
                }
                let count = place.look();
                let (state, debt) = (count.state(), count.debt(self.now));
                let room = Room { place, count };
                if state.is_expired(self.now) {
                    free += 1;
                    let since = state.expires_at();
                    if longest_spent.is_none_or(|(longest, _)| since < longest) {
                        longest_spent = Some((since, room));
                    }
                }
                if least.is_none_or(|(least, _)| debt < least) {
                    least = Some((debt, room));
                }
            }
            if let Some((since, room)) = longest_spent {
                let better = |(best, roomy, _): (u64, usize, _)| {
                    since < best || since == best && roomy < ROOMY && roomy < free
                };
                if best.is_none_or(better) {
                    best = Some((since, free, room));
                }
            }
        }
        match (best, least) {
            (Some((.., room)), _) | (None, Some((_, room))) => room,
            (None, None) => unreachable!("ten slots, of which this row has at most seven"),
        }
    }
}

/// Releases the slots that the row still holds.
impl Drop for Row<'_> {
    fn drop(&mut self) {
        for cell in self.cells.iter().filter(|cell| cell.is_held) {
            if let Some(place) = cell.found {
                place.slot.release();
            }
        }
    }
}
