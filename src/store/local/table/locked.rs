use std::ptr;

use smallvec::SmallVec;

use super::set::{Set, SlotRef};
use super::slot::{Entry, Key};
use super::storage::Storage;
use super::sync::{MutexGuard, yield_now};
use crate::quota::{MAX_POLICIES, Quota, State};
use crate::store::check::Check;
use crate::store::receipt::Receipt;
use crate::store::verdict::{PerPolicy, Verdict};

/// The mutexes of two new entries' candidate sets fit inline.
type Guards<'a> = SmallVec<[MutexGuard<'a, ()>; 4]>;

/// A key's first candidate set is preferred while it has this many free slots.
const MIN_FREE_SLOTS: usize = 3;

/// The entries of one check's policies, locked.
pub(crate) struct LockedEntries<'a> {
    storage: &'a Storage,
    check: &'a Check<'a>,
    entries: PerPolicy<LockedEntry<'a>>,
    guards: Guards<'a>,
    now: u64,
}

#[derive(Clone, Copy)]
struct LockedEntry<'a> {
    key: Key,
    /// The slot of the key's entry, if the table has one.
    slot: Option<SlotRef<'a>>,
    entry: Entry,
    /// Whether the slot is held. A write releases the slot; after that, a lock-free charge may hold it.
    is_held: bool,
}

/// A slot for a new entry, and the expired entry or victim in it.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    slot: SlotRef<'a>,
    entry: Entry,
}

impl<'a> LockedEntries<'a> {
    pub(super) fn lock(
        storage: &'a Storage,
        check: &'a Check<'a>,
        keys: impl Iterator<Item = Key>,
    ) -> Self {
        let mut entries = PerPolicy::new();
        for key in keys {
            entries.push(LockedEntry {
                key,
                slot: storage.find(key),
                entry: Entry::EMPTY,
                is_held: false,
            });
        }
        let mut locked = Self {
            storage,
            check,
            entries,
            guards: Guards::new(),
            now: 0,
        };
        locked.lock_sets();
        locked.hold_slots();
        locked
    }

    /// Locks the set of each entry that was found, and both candidate sets of each other key. Tries again
    /// if an entry has moved before its set was locked.
    fn lock_sets(&mut self) {
        loop {
            self.guards.clear();
            let mut sets = SmallVec::<[&Set; 2 * MAX_POLICIES]>::new();
            for entry in &self.entries {
                match entry.slot {
                    Some(found) => sets.push(found.set),
                    None => sets.extend(self.storage.candidate_sets(entry.key)),
                }
            }
            // All checks lock in the order of addresses, so they cannot deadlock.
            sets.sort_unstable_by_key(|set| ptr::from_ref(*set));
            sets.dedup_by_key(|set| ptr::from_ref(*set));
            self.guards.extend(sets.iter().map(|set| set.lock()));
            let mut has_moved = false;
            for entry in &mut self.entries {
                let found = self.storage.find(entry.key);
                has_moved |= entry.slot.is_some_and(|locked| {
                    !found.is_some_and(|found| ptr::eq(found.set, locked.set))
                });
                entry.slot = found;
            }
            if !has_moved {
                break;
            }
        }
    }

    /// Holds the slots that were found, which keeps lock-free charges out, and loads their entries.
    fn hold_slots(&mut self) {
        for entry in &mut self.entries {
            if let Some(found) = entry.slot {
                entry.is_held = found.slot.hold();
                entry.entry = found.load();
            }
        }
        // Read the clock after holding the slots, so that `now` is not older than the last charge.
        self.now = self.storage.clock.now();
    }

    /// Returns the time at which the entries were locked, in microseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Returns each policy's state, in order, with the cost that open charges reserve.
    #[inline]
    fn states(&self) -> impl Iterator<Item = State> {
        let entries = self.check.quotas().zip(&self.entries);
        entries.map(
            |(quota, LockedEntry { key, entry, .. })| match quota.is_reserving() {
                false => entry.state(),
                true => {
                    let reserved = self.storage.open_charges.reserved(key.hash());
                    entry.state().with_reserved(reserved)
                }
            },
        )
    }

    /// Returns a policy's state, and whether it is unsynced.
    pub(crate) fn get(&self, policy: usize) -> (State, bool) {
        let entry = self.entries[policy].entry;
        (entry.state(), entry.is_unsynced(self.now))
    }

    /// Writes a policy's state. An expired state is not given a slot.
    #[inline]
    pub(crate) fn set(&mut self, policy: usize, state: State, is_unsynced: bool) {
        let LockedEntry { key, slot, .. } = self.entries[policy];
        let slot = match slot {
            Some(slot) => slot,
            None if state.is_expired(self.now) => return,
            None => self.allocate(policy),
        };
        self.entries[policy].is_held = false;
        let quota = self.check.limits.policies()[policy].quota();
        slot.store_and_release(Entry::new(key, quota, state, self.now, is_unsynced));
    }

    /// Decides the check and writes the new states, as unsynced ones if `is_unsynced`.
    #[inline]
    pub(crate) fn decide(&mut self, is_unsynced: bool) -> Verdict {
        let step = self.check.decide(self.now, self.states());
        for (policy, quota) in self.check.quotas().enumerate() {
            let state = quota.without_reserved(step.next[policy]);
            if is_unsynced || state != self.entries[policy].entry.state() {
                self.set(policy, state, is_unsynced);
            }
        }
        self.update_estimates();
        let mut verdict = step.verdict;
        if self.check.reserves() && verdict.allowed {
            verdict.receipt = Some(Box::new(self.open(&step.next)));
        }
        verdict
    }

    /// Opens the check's charge, after which the states are `next`: until it is settled, what it reserves
    /// takes part in decisions.
    pub(crate) fn open(&self, next: &[State]) -> Receipt {
        let entries = self.check.quotas().zip(&self.entries).zip(next);
        Receipt::new(entries.map(|((quota, entry), next)| {
            if !quota.is_settleable() {
                return [0, 0];
            }
            [self.open_entry(quota, entry), quota.window_start(*next)]
        }))
    }

    /// Reserves the check's cost, even above the limit.
    pub(crate) fn open_reservations(&self) -> Receipt {
        let entries = self.check.quotas().zip(&self.entries);
        Receipt::new(entries.map(|(quota, entry)| match quota.is_reserving() {
            true => [self.open_entry(quota, entry), 0],
            false => [0, 0],
        }))
    }

    /// Opens the check's charge under one policy. Returns its generation.
    fn open_entry(&self, quota: &Quota, entry: &LockedEntry<'_>) -> u64 {
        let reserved = self.check.reserved_under(quota);
        self.storage.open_charges.open(entry.key.hash(), reserved)
    }

    /// Closes a charge of the check. Unless `used` is `None`, settles it at that cost.
    pub(crate) fn close(&mut self, receipt: &Receipt, used: Option<u32>) {
        let marks = self.check.quotas().zip(receipt.marks()).enumerate();
        for (policy, (quota, &[generation, window])) in marks {
            let key = self.entries[policy].key.hash();
            let reserved = self.check.reserved_under(quota);
            let was_open = self.storage.open_charges.close(key, generation, reserved);
            if let Some(used) = used.filter(|_| was_open) {
                let (state, is_unsynced) = self.get(policy);
                let (charged, used) = (self.check.cost_under(quota), self.check.used(used));
                let settled = quota.settle(state, self.now, window, charged, used);
                if settled != state {
                    self.set(policy, settled, is_unsynced);
                }
            }
        }
    }

    /// Deletes every policy's state, and closes all open charges.
    pub(crate) fn clear(&mut self) {
        for entry in &self.entries {
            self.storage.open_charges.reset(entry.key.hash());
        }
        for entry in &mut self.entries {
            if let Some(slot) = entry.slot {
                slot.store_and_release(Entry::EMPTY);
                entry.is_held = false;
            }
        }
    }

    /// Updates the estimates of live entries.
    #[inline]
    pub(crate) fn update_estimates(&self) {
        for entry in &self.entries {
            self.storage.update_estimate(entry.key, self.now);
        }
    }

    /// Finds a slot for a new entry, and holds it.
    #[cold]
    fn allocate(&mut self, policy: usize) -> SlotRef<'a> {
        loop {
            let Candidate { slot, entry } = self.find_candidate(policy);
            // The exchange fails if the victim has been charged without the lock since it was loaded.
            if slot.slot.hold_if(entry.word()) {
                if !entry.state().is_expired(self.now) {
                    self.storage.meter.evicted();
                }
                self.entries[policy].slot = Some(slot);
                return slot;
            }
            yield_now();
        }
    }

    /// Picks the slot for a new entry: the longest-expired slot, since the key of an entry that has just
    /// expired is the likeliest to come back. Of slots that were never used, it picks one of the first
    /// candidate set while that has [`MIN_FREE_SLOTS`] free slots, and otherwise one of the emptier set. If
    /// all slots are live, the victim is the entry that has used the smallest share of its quota. The slots
    /// of this check's other policies are left out.
    fn find_candidate(&self, policy: usize) -> Candidate<'a> {
        let mut longest_expired: Option<(u64, usize, Candidate<'a>)> = None;
        let mut least_used: Option<((u8, [u64; 2]), Candidate<'a>)> = None;
        for set in self.storage.candidate_sets(self.entries[policy].key) {
            let (mut free, mut longest_in_set) = (0, None::<(u64, Candidate<'a>)>);
            for slot in set.slots() {
                let is_own = |entry: &LockedEntry<'_>| {
                    entry.slot.is_some_and(|own| ptr::eq(own.slot, slot.slot))
                };
                if self.entries.iter().any(is_own) {
                    continue;
                }
                let entry = slot.load();
                let (state, used) = (entry.state(), entry.used(self.now));
                let candidate = Candidate { slot, entry };
                if state.is_expired(self.now) {
                    free += 1;
                    let expired_at = state.expires_at();
                    if longest_in_set.is_none_or(|(longest, _)| expired_at < longest) {
                        longest_in_set = Some((expired_at, candidate));
                    }
                }
                if least_used.is_none_or(|(least, _)| used < least) {
                    least_used = Some((used, candidate));
                }
            }
            if let Some((expired_at, candidate)) = longest_in_set {
                let is_better = |(longest, free_in_first, _): (u64, usize, _)| {
                    expired_at < longest
                        || expired_at == longest
                            && free_in_first < MIN_FREE_SLOTS
                            && free_in_first < free
                };
                if longest_expired.is_none_or(is_better) {
                    longest_expired = Some((expired_at, free, candidate));
                }
            }
        }
        match (longest_expired, least_used) {
            (Some((.., candidate)), _) | (None, Some((_, candidate))) => candidate,
            (None, None) => unreachable!("a check has at most seven other slots of the ten"),
        }
    }
}

/// Releases the slots that are still held.
impl Drop for LockedEntries<'_> {
    fn drop(&mut self) {
        for entry in self.entries.iter().filter(|entry| entry.is_held) {
            if let Some(found) = entry.slot {
                found.slot.release();
            }
        }
    }
}
