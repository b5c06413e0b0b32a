//! A slot of the table, and the lock-free charge of its entry.
//!
//! The state of most token buckets fits in one word. An entry with such a state is *compact*. A lock-free
//! charge exchanges that word for the same word with [`Entry::HELD`] set, compares the tag, and stores the new
//! word: three accesses to one cache line. All other operations lock the set's mutex and then hold the
//! slot, which keeps lock-free charges out.

use super::sync::{AtomicU64, Ordering, yield_now};
use crate::quota::{Policy, Quota, State, TokenBucket};
use crate::store::check::Check;

/// The hash of an identity, a scope, a policy's name and its quota.
#[derive(Clone, Copy)]
pub(super) struct Key(u128);

impl Key {
    #[inline(always)]
    pub(super) fn new(check: &Check<'_>, policy: &Policy) -> Self {
        // Clients choose identities, so their hash has a secret key. The fingerprints are unkeyed hashes of
        // the application's names.
        let identity = check.identity_of(policy);
        Self(identity.keyed_hash() ^ check.scope.fingerprint() ^ policy.fingerprint())
    }

    pub(super) fn hash(self) -> u128 {
        self.0
    }

    fn tag(self) -> u64 {
        self.0 as u64 & Entry::KEY_MASK
    }

    /// Returns the index of the first candidate set among `sets`.
    #[inline(always)]
    pub(super) fn first_set(self, sets: usize) -> usize {
        scale((self.0 >> 64) as u32, sets)
    }

    /// Returns the index of the second candidate set, another one of the same group.
    #[inline(always)]
    pub(super) fn second_set(self, first: usize, sets_per_group: usize) -> usize {
        first ^ (1 + scale((self.0 >> 96) as u32, sets_per_group - 1))
    }
}

/// Maps a hash to an index below `count`.
#[inline(always)]
fn scale(hash: u32, count: usize) -> usize {
    ((u64::from(hash) * count as u64) >> 32) as usize
}

#[derive(Default)]
#[repr(C)]
pub(super) struct Slot {
    /// From the top: 55 bits of the key's hash; 8 bits for the share of the quota that was used when the
    /// entry was last charged under the mutex; the flag [`Entry::UNSYNCED`]. The tag changes only while the
    /// slot is held.
    tag: AtomicU64,
    /// From the top: 52 bits for the instant at which the state expires; 10 bits for the second word of a
    /// compact state; the flags [`Entry::COMPACT`] and [`Entry::HELD`].
    word: AtomicU64,
}

/// The contents of a slot, including its third word.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) tag: u64,
    word: u64,
    /// The second word of the state. In a compact entry, the time in which the token bucket fills.
    pub(super) third_word: u64,
}

impl Entry {
    pub(super) const EMPTY: Self = Self {
        tag: 0,
        word: 0,
        third_word: 0,
    };
    pub(super) const KEY_MASK: u64 = !0x1ff;
    /// The limiter's fallback charged the entry, and the store does not know of it yet.
    const UNSYNCED: u64 = 1;

    /// The latest instant that fits, in microseconds since the Unix epoch: in the year 2112.
    const MAX_INSTANT: u64 = (1 << 52) - 1;
    /// The largest second word of a state that fits.
    const MAX_COMPACT: u64 = (1 << 10) - 1;
    /// The entry is compact, so that it can be charged without the mutex.
    const COMPACT: u64 = 2;
    /// One thread may write the slot: the owner of the set's mutex, or a lock-free charge between its
    /// exchange and its store.
    const HELD: u64 = 1;

    pub(super) fn new(key: Key, quota: &Quota, state: State, now: u64, is_unsynced: bool) -> Self {
        let [until, second] = state.words();
        let until = until.min(Self::MAX_INSTANT) << 12;
        let (word, third_word, used) = match Self::compact_bucket(quota) {
            Some(bucket) => {
                // The state of another store may hold any number.
                let second = second.min(Self::MAX_COMPACT);
                (until | second << 2 | Self::COMPACT, bucket.lifetime(), 0)
            }
            None => (until, second, quota.used(state, now)),
        };
        Self {
            tag: key.tag() | u64::from(used) << 1 | u64::from(is_unsynced),
            word,
            third_word,
        }
    }

    /// Returns the quota's token bucket, if its entries are compact. The entries of a bucket with a queue
    /// are not, since a lock-free charge uses the cached clock, whose lag would make delays inexact.
    #[inline]
    pub(super) fn compact_bucket(quota: &Quota) -> Option<&TokenBucket> {
        quota.plain_bucket_within(Self::MAX_COMPACT + 1)
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        let second = match self.word & Self::COMPACT {
            0 => self.third_word,
            _ => self.word >> 2 & Self::MAX_COMPACT,
        };
        State::from_words([self.word >> 12, second])
    }

    /// Returns the slot's word, without [`Entry::HELD`].
    pub(super) fn word(&self) -> u64 {
        self.word
    }

    pub(super) fn is_unsynced(&self, now: u64) -> bool {
        self.tag & Self::UNSYNCED != 0 && !self.state().is_expired(now)
    }

    /// Returns the order of eviction, smallest first: the used share of the quota in units of 1/255, which
    /// compares quotas of any period, and then the state.
    pub(super) fn used(&self, now: u64) -> (u8, [u64; 2]) {
        let words = self.state().words();
        let used = match self.word & Self::COMPACT {
            0 => (self.tag >> 1) as u8,
            _ => {
                let debt = words[0].saturating_sub(now).min(self.third_word);
                // A bucket fills in at most ten years, so the product does not overflow.
                (debt * 255 / self.third_word.max(1)) as u8
            }
        };
        (used, words)
    }
}

impl Slot {
    #[inline]
    pub(super) fn has(&self, key: Key) -> bool {
        self.tag.load(Ordering::Relaxed) & Entry::KEY_MASK == key.tag()
    }

    /// Loads the entry. The caller has loaded its third word.
    pub(super) fn load(&self, third_word: u64) -> Entry {
        Entry {
            tag: self.tag.load(Ordering::Relaxed),
            word: self.word.load(Ordering::Relaxed) & !Entry::HELD,
            third_word,
        }
    }

    /// Holds the slot if its entry is compact, and returns whether it did. The caller has locked the set, so
    /// only a lock-free charge can hold the slot, for a few instructions.
    pub(super) fn hold(&self) -> bool {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & Entry::COMPACT == 0 {
                return false;
            }
            if word & Entry::HELD == 0 && self.hold_if(word) {
                return true;
            }
            yield_now();
        }
    }

    /// Holds the slot if its word is still `word`, and returns whether it did.
    #[inline]
    pub(super) fn hold_if(&self, word: u64) -> bool {
        let (held, order) = (word | Entry::HELD, Ordering::Acquire);
        self.word
            .compare_exchange(word, held, order, Ordering::Relaxed)
            .is_ok()
    }

    /// Returns whether another thread holds the slot.
    #[cold]
    pub(super) fn is_held(&self) -> bool {
        self.word.load(Ordering::Relaxed) & Entry::HELD != 0
    }

    /// Writes an entry, except its third word, into a held slot, and releases the slot.
    pub(super) fn store_and_release(&self, entry: Entry) {
        self.tag.store(entry.tag, Ordering::Relaxed);
        // Release: a thread that loads this word also sees the tag and the third word.
        self.word.store(entry.word, Ordering::Release);
    }

    /// Releases a held slot.
    pub(super) fn release(&self) {
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word & !Entry::HELD, Ordering::Release);
    }

    /// Loads a key's entry if it is compact and not held.
    #[inline]
    pub(super) fn load_compact(&self, key: Key) -> Option<CompactEntry<'_>> {
        let word = self.word.load(Ordering::Acquire);
        let is_free = word & (Entry::COMPACT | Entry::HELD) == Entry::COMPACT;
        // Load the tag after the word: if the word was written for another key, the tag is that key's.
        let tag = self.tag.load(Ordering::Relaxed);
        let slot = self;
        (is_free && tag & Entry::KEY_MASK == key.tag()).then_some(CompactEntry { slot, tag, word })
    }
}

/// A compact entry that was loaded without a lock.
pub(super) struct CompactEntry<'a> {
    slot: &'a Slot,
    tag: u64,
    word: u64,
}

impl CompactEntry<'_> {
    /// Returns the entry without its third word. The state may be another key's, if the slot was evicted and
    /// reused between the two loads.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            tag: self.tag,
            word: self.word,
            third_word: 0,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        State::from_words([self.word >> 12, self.word >> 2 & Entry::MAX_COMPACT])
    }

    /// Replaces the state. Returns false if the slot was changed or held since the state was loaded, and
    /// `None` if the new state is not compact.
    ///
    /// ABA: since the load, the slot may have been evicted and reused for another key whose word is equal,
    /// for instance if two identities are charged the same cost in the same microsecond. The exchange then
    /// succeeds, but it only holds the slot. The tag is compared while the slot is held, and a thread
    /// changes the tag only of a slot that it holds, so the new state never overwrites another key's.
    #[inline]
    pub(super) fn replace(&self, next: State) -> Option<bool> {
        let [until, second] = next.words();
        if until > Entry::MAX_INSTANT {
            return None;
        }
        if !self.slot.hold_if(self.word) {
            return Some(false);
        }
        let is_same_key = self.slot.tag.load(Ordering::Relaxed) == self.tag;
        let next = until << 12 | second << 2 | Entry::COMPACT;
        let word = if is_same_key { next } else { self.word };
        self.slot.word.store(word, Ordering::Release);
        Some(is_same_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oversized_second_word_keeps_the_instant() {
        let (quota, until) = (Quota::per_second(3), 1_000_000);
        for second in [0, 2, 1_023, 1_024, u64::MAX] {
            let state = State::from_words([until, second]);
            let entry = Entry::new(Key(0), &quota, state, 0, false);
            assert_eq!(entry.state().words()[0], until, "{second}");
        }
    }
}
