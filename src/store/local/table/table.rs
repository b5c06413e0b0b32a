use std::{fmt, hint};

use super::locked::LockedEntries;
use super::slot::{Entry, Key};
use super::storage::{Storage, TableClock};
use crate::clock::{Clock, MAX_LAG};
use crate::quota::{Charge, Quota, State, Status};
use crate::store::check::Check;
use crate::store::verdict::PerPolicy;

/// A denial whose wait is longer than this, in microseconds, may use the cached clock, which lags by at
/// most [`MAX_LAG`].
const LONG_WAIT: u64 = 1_000_000;

/// After this many failed compare-exchanges a check locks the set's mutex, which is fair.
const MAX_FAILURES: u32 = 8;

/// A table of entries: the states of identities under policies.
pub(crate) struct Table {
    pub(super) storage: Storage,
}

impl Table {
    pub(crate) fn with_capacity(capacity: usize, store: &'static str) -> Self {
        Self {
            storage: Storage::new(capacity, store),
        }
    }

    pub(crate) fn set_clock(&mut self, clock: impl Clock) {
        self.storage.clock = TableClock::Custom(Box::new(clock));
    }

    /// Reads the time, and the state of each policy with its flag for unsynced entries. Another check may
    /// charge one policy between the reads of two policies.
    pub(crate) fn read(&self, check: &Check<'_>) -> (u64, PerPolicy<(State, bool)>) {
        let (keys, now) = (Self::keys(check), self.storage.clock.cached_now());
        let entries = keys.map(|key| {
            let entry = self.storage.find(key).map_or(Entry::EMPTY, |found| {
                // Without the lock, the slot may be reused for another key between the load of the tag
                // and of the state. That is harmless, except that an unsynced state is sent to a store.
                let seen = found.slot.load_compact(key).map(|seen| seen.entry());
                if let Some(synced) = seen.filter(|entry| !entry.is_unsynced(now)) {
                    return synced;
                }
                let _locked = found.set.lock();
                match found.slot.has(key) {
                    true => found.load(),
                    false => Entry::EMPTY,
                }
            });
            (entry.state(), entry.is_unsynced(now))
        });
        (now, entries.collect())
    }

    /// Locks the entries of a check's policies.
    pub(crate) fn lock<'a>(&'a self, check: &'a Check<'a>) -> LockedEntries<'a> {
        LockedEntries::lock(&self.storage, check, Self::keys(check))
    }

    /// Decides and charges a check without a lock. Returns the time, the state before the check and the
    /// status, or `None` for a check that needs a lock. A check needs none if it has one policy, a token
    /// bucket whose entry was found, and if it brings no state of the limiter's fallback.
    ///
    /// The exact clock is read only where the lag of the cached clock could change the decision or the
    /// status (bench: `steps::local`).
    #[inline(always)]
    pub(crate) fn charge_lock_free(&self, check: &Check<'_>) -> Option<(u64, State, Status)> {
        let [policy] = check.limits.policies() else {
            return None;
        };
        if !check.is_plain() {
            return None;
        }
        let bucket = Entry::compact_bucket(policy.quota())?;
        let key = Key::new(check, policy);
        let (slot, clock) = (self.storage.find(key)?.slot, &self.storage.clock);
        let mut failures = 0;
        let (state, charge, now, is_exact) = loop {
            // Load the slot before reading the clock, so that `now` is not older than the state.
            let Some(seen) = slot.load_compact(key) else {
                if !slot.is_held() || failures == MAX_FAILURES {
                    return None;
                }
                back_off(failures);
                failures += 1;
                continue;
            };
            let state = seen.state();
            let (mut now, mut is_exact) = (clock.cached_now(), false);
            if bucket.is_ahead(state, now) {
                return None;
            }
            let mut charge = bucket.charge(state, now, check.cost);
            let is_long_denial = check.cost == 1 && bucket.denies_for(&charge, LONG_WAIT);
            if charge.next == state && check.cost > 0 && !is_long_denial {
                // The lag of the cached clock may deny a cost that fits.
                (now, is_exact) = (clock.now(), true);
                charge = bucket.charge(state, now, check.cost);
            }
            if charge.next == state || seen.replace(charge.next)? {
                break (state, charge, now, is_exact);
            }
            if failures == MAX_FAILURES {
                return None;
            }
            back_off(failures);
            failures += 1;
        };
        self.storage.update_estimate(key, now);
        let lag = if is_exact { 0 } else { MAX_LAG };
        let status = bucket.status_if_exact(charge, lag);
        let status = status.unwrap_or_else(|| self.exact_status(policy.quota(), &charge));
        Some((now, state, status))
    }

    /// Computes the status after a charge by the exact clock.
    #[cold]
    fn exact_status(&self, quota: &Quota, charge: &Charge) -> Status {
        let (_, status) = quota.step(charge.next, self.storage.clock.now(), 0);
        status
    }

    fn keys(check: &Check<'_>) -> impl Iterator<Item = Key> {
        let policies = check.limits.policies().iter();
        policies.map(|policy| Key::new(check, policy))
    }
}

/// Backs off exponentially after a failed compare-exchange, so that the winning core keeps the cache line
/// instead of the two cores passing it back and forth (Dice, Hendler and Mirsky, "Lightweight Contention
/// Management for Efficient Compare-and-Swap Operations", 2013). Two threads that charge a single entry
/// get twice as many decisions (bench: `steps::local::contended`).
#[cold]
fn back_off(failures: u32) {
    for _ in 0..32 << failures.min(3) {
        hint::spin_loop();
    }
    // The model checker must run the other thread next.
    #[cfg(all(test, tollgate_loom))]
    super::sync::yield_now();
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}
