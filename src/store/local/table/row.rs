use std::ptr;

use smallvec::SmallVec;

use super::{Bucket, Count, Key, NOTHING, Slot, Table};
use crate::quota::{MAX_POLICIES, Quota, State};
use crate::store::Check;
use crate::store::local::sync::MutexGuard;
use crate::store::verdict::{PerPolicy, Verdict};

/// Room for both buckets of each of two new counts.
type Locked<'a> = SmallVec<[MutexGuard<'a, ()>; 4]>;

/// A key's slot, if it has one yet, and what is in it.
#[derive(Clone, Copy)]
struct Cell<'a> {
    key: Key,
    found: Option<(&'a Bucket, &'a Slot)>,
    count: Count,
}

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
        let now = table.clock.now();
        let mut cells = PerPolicy::new();
        for key in keys {
            let (found, count) = (table.find(key), NOTHING);
            cells.push(Cell { key, found, count });
        }
        let mut row = Self {
            table,
            check,
            cells,
            locked: Locked::new(),
            now,
        };
        if !row.lock_one() {
            row.lock_all();
        }
        row
    }

    /// Locks what was found of one policy, and looks again: the common case.
    fn lock_one(&mut self) -> bool {
        if let [
            Cell {
                key,
                found: Some((bucket, slot)),
                count,
            },
        ] = self.cells.as_mut_slice()
        {
            self.locked.push(bucket.lock.lock());
            *count = slot.get();
            let quota = self.check.limits.policies()[0].quota();
            slot.holds(*key) && !quota.is_ahead(count.state, self.now)
        } else {
            false
        }
    }

    /// Locks what was found, and both buckets of what was not, until nothing has moved meanwhile.
    fn lock_all(&mut self) {
        loop {
            self.locked.clear();
            let mut buckets = SmallVec::<[&Bucket; 2 * MAX_POLICIES]>::new();
            for cell in &self.cells {
                match cell.found {
                    Some((bucket, _)) => buckets.push(bucket),
                    None => buckets.extend(self.table.buckets(cell.key)),
                }
            }
            // In order, so that two checks never wait for each other.
            buckets.sort_unstable_by_key(|bucket| ptr::from_ref(*bucket));
            buckets.dedup_by_key(|bucket| ptr::from_ref(*bucket));
            self.locked
                .extend(buckets.iter().map(|bucket| bucket.lock.lock()));
            let mut moved = false;
            for cell in &mut self.cells {
                let found = self.table.find(cell.key);
                moved |= cell.found.is_some_and(|(locked, _)| {
                    !found.is_some_and(|(bucket, _)| ptr::eq(bucket, locked))
                });
                cell.found = found;
                cell.count = found.map_or(NOTHING, |(_, slot)| slot.get());
            }
            if !moved {
                break;
            }
        }
        let is_ahead = |(state, quota): (State, &Quota)| quota.is_ahead(state, self.now);
        if self.states().zip(self.check.quotas()).any(is_ahead) {
            // Another check may have come between the clock and the lock, and time must not seem
            // to have stepped back.
            self.now = self.table.clock.now();
        }
    }

    /// Microseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Each policy's state, in order.
    #[inline]
    pub(crate) fn states(&self) -> impl Iterator<Item = State> {
        self.cells.iter().map(|cell| cell.count.state)
    }

    /// Whether each policy's state is marked, in order.
    pub(crate) fn marks(&self) -> impl Iterator<Item = bool> {
        self.cells.iter().map(|cell| cell.count.is_marked(self.now))
    }

    /// Keeps a policy's state, with or without a mark.
    #[inline]
    pub(crate) fn set(&mut self, policy: usize, state: State, mark: bool) {
        let Cell { key, found, .. } = self.cells[policy];
        let slot = match found {
            Some((_, slot)) => slot,
            None if state.is_spent(self.now) => return,
            None => self.make_room(policy),
        };
        let used = self.check.limits.policies()[policy]
            .quota()
            .used(state, self.now);
        let tag = key.tag() | u64::from(used) << 1 | u64::from(mark);
        slot.set(Count { tag, state });
    }

    /// Decides the check; marks its counts, if asked to.
    #[inline]
    pub(crate) fn decide(&mut self, mark: bool) -> Verdict {
        let step = self.check.decide(self.now, self.states());
        for (policy, state) in step.next.iter().enumerate() {
            if mark || *state != self.cells[policy].count.state {
                self.set(policy, *state, mark);
            }
        }
        self.estimate();
        step.verdict
    }

    /// Gives back what the check was charged: many times over only where this process alone
    /// decided. A mark stays.
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
        for (_, slot) in self.cells.iter().filter_map(|cell| cell.found) {
            slot.set(NOTHING);
        }
    }

    /// Keeps the estimate of live counts.
    #[inline]
    pub(crate) fn estimate(&self) {
        for cell in &self.cells {
            self.table.estimate(cell.key, self.now);
        }
    }

    /// Finds a slot for a new count: a free one in the emptier of its two buckets, else that of the
    /// least indebted count, but of none of this row's own.
    #[cold]
    fn make_room(&mut self, policy: usize) -> &'a Slot {
        let table = self.table;
        let mut roomiest = (0, None);
        let mut least: Option<(_, &Bucket, &Slot)> = None;
        for bucket in table.buckets(self.cells[policy].key) {
            let (mut free, mut longest_free) = (0, None::<(u64, &Bucket, &Slot)>);
            for slot in &bucket.slots {
                let own = |cell: &Cell| cell.found.is_some_and(|(_, own)| ptr::eq(own, slot));
                if self.cells.iter().any(own) {
                    continue;
                }
                let count = slot.get();
                if count.state.is_spent(self.now) {
                    free += 1;
                    // Whose it was may come back for it.
                    let since = count.state.expires_at();
                    if longest_free.is_none_or(|(longest, ..)| since < longest) {
                        longest_free = Some((since, bucket, slot));
                    }
                }
                if least.is_none_or(|(debt, ..)| count.debt() < debt) {
                    least = Some((count.debt(), bucket, slot));
                }
            }
            if free > roomiest.0 {
                roomiest = (free, longest_free);
            }
        }
        let (bucket, slot) = match (roomiest.1, least) {
            (Some((_, bucket, slot)), _) => (bucket, slot),
            (None, Some((_, bucket, slot))) => {
                table.meter.evicted();
                (bucket, slot)
            }
            (None, None) => unreachable!("ten slots, of which this row has at most seven"),
        };
        self.cells[policy].found = Some((bucket, slot));
        slot
    }
}
