//! Queued checks: equal checks share an entry, and no identity can fill the queue alone.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::waiter::Waiter;
use crate::store::StoreErrorKind;

/// One identity may have an eighth of the queue's entries, so that many different checks of it leave
/// room for other identities.
const MOST_IDENTITIES: usize = 8;

/// With how many queued entries of its identity a check is compared: usually the last one is equal.
const MOST_COMPARED: usize = 8;

/// The waiters of equal checks.
pub(super) type Waiters = SmallVec<[Waiter; 1]>;

/// Equal checks, which are decided as one; or a reset.
pub(super) struct Entry {
    /// Never empty.
    pub(super) waiters: Waiters,
    /// How many entries of the same identity come before it in the same batch.
    pub(super) earlier: usize,
    /// The number of the identity's previous entry, which may have left the queue.
    previous: Option<u64>,
}

impl Entry {
    pub(super) fn policies(&self) -> usize {
        self.waiters[0].check.borrow().limits.policies().len()
    }
}

/// A queue of entries, oldest first.
#[derive(Default)]
pub(super) struct Waiting {
    entries: VecDeque<Entry>,
    /// The number of the first entry. Entries are numbered in the order in which they came.
    first: u64,
    /// The number of waiters in all entries.
    checks: usize,
    identities: HashMap<u64, OfIdentity, BuildHasherDefault<Hashed>>,
}

/// The queued entries of one identity.
struct OfIdentity {
    last: u64,
    count: usize,
}

impl Waiting {
    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of waiters.
    pub(super) fn checks(&self) -> usize {
        self.checks
    }

    pub(super) fn first(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(super) fn has_probe(&self) -> bool {
        let mut waiters = self.entries.iter().flat_map(|entry| &entry.waiters);
        waiters.any(|waiter| waiter.probes)
    }

    /// Adds a waiter, to an entry of equal checks if there is one. Returns the waiter if the queue
    /// has `longest` entries, or if the waiter's identity has its share of them.
    pub(super) fn push(&mut self, waiter: Waiter, longest: usize) -> Result<(), Waiter> {
        let identity = self.identities.get(&waiter.subject.identity);
        let (last, count) = match identity {
            Some(identity) => (Some(identity.last), identity.count),
            None => (None, 0),
        };
        let mut number = last;
        for _ in 0..MOST_COMPARED {
            let index = number.and_then(|number| number.checked_sub(self.first));
            let Some(index) = index else {
                break;
            };
            let entry = &mut self.entries[index as usize];
            if entry.waiters[0].equals(&waiter) {
                entry.waiters.push(waiter);
                self.checks += 1;
                return Ok(());
            }
            number = entry.previous;
        }
        let is_full = self.len() >= longest || count >= longest.div_ceil(MOST_IDENTITIES);
        if is_full && !waiter.probes {
            return Err(waiter);
        }
        let identity = OfIdentity {
            last: self.first + self.len() as u64,
            count: count + 1,
        };
        self.identities.insert(waiter.subject.identity, identity);
        self.entries.push_back(Entry {
            waiters: SmallVec::from_buf([waiter]),
            earlier: 0,
            previous: last,
        });
        self.checks += 1;
        Ok(())
    }

    /// Takes entries for one round trip, with at most `most_keys` keys in all, but at least one
    /// entry. Waiters whose caller has given up, or will before the round trip is over, are dropped.
    pub(super) fn take(&mut self, most_keys: usize, round_trip: Duration) -> Vec<Entry> {
        let now = Instant::now();
        let answered = now + round_trip;
        let start = self.first;
        let mut taken: Vec<Entry> = Vec::with_capacity(self.len().min(most_keys));
        // For each entry that leaves the queue, how many of its identity are taken, it included.
        let mut taken_so_far: Vec<usize> = Vec::with_capacity(taken.capacity());
        let mut keys = 0;
        while let Some(first) = self.first() {
            keys += first.policies();
            if keys > most_keys && !taken.is_empty() {
                break;
            }
            let Some(mut entry) = self.pop() else {
                break;
            };
            let previous = entry.previous.and_then(|number| number.checked_sub(start));
            entry.earlier = previous.map_or(0, |index| taken_so_far[index as usize]);
            let is_late = |waiter: &Waiter| waiter.is_gone() || waiter.is_hopeless(now, answered);
            if entry.waiters.iter().any(is_late) {
                let (late, waiters) = entry.waiters.into_iter().partition(is_late);
                entry.waiters = waiters;
                let late: Waiters = late;
                for waiter in late {
                    waiter.answer(Err(StoreErrorKind::TimedOut.into()));
                }
            }
            if entry.waiters.is_empty() {
                taken_so_far.push(entry.earlier);
                continue;
            }
            taken_so_far.push(entry.earlier + 1);
            taken.push(entry);
        }
        taken
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.first += 1;
        self.checks -= entry.waiters.len();
        let identity = entry.waiters[0].subject.identity;
        if let Some(queued) = self.identities.get_mut(&identity) {
            queued.count -= 1;
            if queued.count == 0 {
                self.identities.remove(&identity);
            }
        }
        Some(entry)
    }

    pub(super) fn into_waiters(self) -> impl Iterator<Item = Waiter> {
        self.entries.into_iter().flat_map(|entry| entry.waiters)
    }
}

/// Passes on a key that is a hash with a secret key already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of 64 bits are hashed")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
