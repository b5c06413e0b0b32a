//! Denies repeated checks of a denied client without a round trip, so that a flood from such a client
//! costs the server about one call a second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::fingerprint::Fingerprint;
use crate::quota::{State, Status};
use crate::store::verdict::PerPolicy;
use crate::store::{Check, Verdict};

/// Bounds how long a reset by another process, or a flush of the database, goes unnoticed.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The cache is set-associative: all denials of an identity, and of the identities within it, are in one
/// set.
const SETS: usize = 4_096;
const SET_SIZE: usize = 4;

/// The number of identities of one set whose last resets are known exactly.
const MAX_RESETS: usize = 8;

/// Recent denials, each valid until the server would allow the check again, or for [`MAX_AGE`] if that
/// is shorter.
pub(super) struct DenialCache(Box<[Mutex<Set>]>);

#[derive(Default)]
struct Set {
    slots: [Option<Box<Denial>>; SET_SIZE],
    /// The time of the last reset or settlement. Round trips overlap, so a denial from before it may arrive
    /// after it.
    changed_at: Option<Instant>,
    /// The hashes of identities that were reset, with the times of their last resets, oldest first.
    resets: Vec<(u64, Instant)>,
    /// The time of the last reset that was removed from `resets`.
    older_reset_at: Option<Instant>,
}

struct Denial {
    fingerprint: Fingerprint,
    cost: u32,
    max_wait: Duration,
    /// Taken before the check was sent, so `now` is not older.
    called_at: Instant,
    expires_at: Instant,
    /// The server's clock, in microseconds since the Unix epoch.
    now: u64,
    states: PerPolicy<State>,
}

impl Set {
    fn record_reset(&mut self, root: u64, now: Instant) {
        self.resets.retain(|(known, _)| *known != root);
        if self.resets.len() == MAX_RESETS {
            let (_, oldest) = self.resets.remove(0);
            self.older_reset_at = Some(oldest);
        }
        self.resets.push((root, now));
    }
}

impl DenialCache {
    pub(super) fn new() -> Self {
        Self((0..SETS).map(|_| Mutex::default()).collect())
    }

    fn set(&self, root: u64) -> MutexGuard<'_, Set> {
        let set = &self.0[root as usize % SETS];
        set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the denial of a check that the server would certainly deny.
    ///
    /// A check that brings states from the limiter's fallback is always sent, since the server joins
    /// them.
    pub(super) fn get(&self, fingerprint: &Fingerprint, check: &Check<'_>) -> Option<Verdict> {
        if check.cost == 0 || check.fallback_states().is_some() {
            return None;
        }
        let max_wait = check.queue_wait();
        let set = self.set(fingerprint.root);
        let mut denials = set.slots.iter().flatten();
        let mut now = None;
        let denial = denials.find(|denial| {
            denial.fingerprint == *fingerprint
                && denial.cost <= check.cost
                && max_wait <= denial.max_wait
                && *now.get_or_insert_with(Instant::now) < denial.expires_at
        })?;
        let age = now?.duration_since(denial.called_at).as_micros() as u64;
        let verdict = Verdict::with_states(false, denial.now + age, &denial.states);
        Some(verdict.remembered())
    }

    /// Caches a denial by the server of a check that was sent after `called_at`.
    pub(super) fn insert(
        &self,
        fingerprint: &Fingerprint,
        check: &Check<'_>,
        verdict: &Verdict,
        called_at: Instant,
    ) {
        let Ok(statuses) = check.replay(verdict) else {
            return;
        };
        // A reservation may be settled at any time.
        if check.fits_unreserved(verdict) {
            return;
        }
        // A cost above the burst is never allowed, and has no `retry_after`.
        let wait = |status: &Status| status.retry_after().unwrap_or(MAX_AGE);
        let wait = statuses.iter().map(wait).max().unwrap_or_default();
        let lifetime = wait.min(MAX_AGE);
        let denial = Denial {
            fingerprint: *fingerprint,
            cost: check.cost,
            max_wait: check.queue_wait(),
            called_at,
            expires_at: called_at + lifetime,
            now: verdict.now,
            states: verdict.states.clone(),
        };
        let mut set = self.set(fingerprint.root);
        if set
            .changed_at
            .is_some_and(|changed_at| called_at <= changed_at)
        {
            return;
        }
        let slots = &mut set.slots;
        let is_same = |cached: &Denial| {
            cached.fingerprint == *fingerprint
                && (cached.cost, cached.max_wait) == (denial.cost, denial.max_wait)
        };
        let slot = slots
            .iter()
            .position(|slot| slot.as_deref().is_some_and(is_same))
            // Else an empty slot, which compares as the least, or the one that expires first.
            .or_else(|| {
                (0..SET_SIZE)
                    .min_by_key(|slot| slots[*slot].as_ref().map(|cached| cached.expires_at))
            });
        if let Some(slot) = slot {
            slots[slot] = Some(Box::new(denial));
        }
    }

    /// Returns whether a state of an identity with the same outermost level was reset at `instant` or
    /// later. After more than [`MAX_RESETS`] resets in one set, returns true also for other identities.
    pub(super) fn was_reset_since(&self, fingerprint: &Fingerprint, instant: Instant) -> bool {
        let set = self.set(fingerprint.root);
        let mut resets = set.resets.iter();
        let reset = resets.find(|(root, _)| *root == fingerprint.root);
        let reset_at = reset.map(|(_, reset_at)| *reset_at).max(set.older_reset_at);
        reset_at.is_some_and(|reset_at| instant <= reset_at)
    }

    /// Removes all denials of identities with the same outermost level, after a state of one of them was
    /// reset or a charge was settled.
    pub(super) fn invalidate(&self, fingerprint: &Fingerprint, is_reset: bool) {
        let mut set = self.set(fingerprint.root);
        let now = Instant::now();
        set.changed_at = Some(now);
        if is_reset {
            set.record_reset(fingerprint.root, now);
        }
        for slot in &mut set.slots {
            if slot
                .as_deref()
                .is_some_and(|cached| cached.fingerprint.root == fingerprint.root)
            {
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::quota::{Limits, Quota};

    #[test]
    fn reset_voids_receipts_of_its_identity_only() {
        let limits = Limits::from(Quota::per_day(1));
        let fingerprint = |user: usize| {
            let identity = Identity::user(&user.to_string());
            Fingerprint::new(&Check::new(&identity, &limits))
        };
        let first = fingerprint(0);
        let set = |other: &Fingerprint| other.root as usize % SETS;
        let mut others = (1..).map(fingerprint);
        let other = others.find(|other| set(other) == set(&first));
        let other = other.expect("another identity of the set");
        let (denials, charged_at) = (DenialCache::new(), Instant::now());
        denials.invalidate(&first, true);
        assert!(denials.was_reset_since(&first, charged_at));
        assert!(!denials.was_reset_since(&other, charged_at));
    }

    #[test]
    fn denial_from_before_a_reset_is_not_cached() {
        let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
        let check = Check::new(&alice, &limits);
        let fingerprint = Fingerprint::new(&check);
        let denials = DenialCache::new();
        let charged = check.decide(0, []).next;
        let denial = check.decide(0, charged).verdict;
        assert!(!denial.is_allowed());

        // Two round trips overlap. The server denies the check of the first, then runs the reset of
        // the second; the reply to the second is delivered first.
        let called_at = Instant::now();
        denials.invalidate(&fingerprint, true);
        denials.insert(&fingerprint, &check, &denial, called_at);
        assert_eq!(denials.get(&fingerprint, &check), None);

        std::thread::sleep(Duration::from_millis(1));
        denials.insert(&fingerprint, &check, &denial, Instant::now());
        assert!(denials.get(&fingerprint, &check).is_some());
    }
}
