//! One slot of the table, and how its count is charged without the bucket's lock.
//!
//! The state of most token buckets fits in one word. A charge exchanges that word for the same word
//! with [`Count::HELD`] set, compares the tag, and stores the new word: three accesses to one cache
//! line. Operations that need more lock the bucket first and then hold the slot, which keeps charges
//! without the lock out.

use super::super::sync::{AtomicU64, Ordering, yield_now};
use super::Key;
use crate::quota::{Quota, State, TokenBucket};

#[derive(Default)]
#[repr(C)]
pub(super) struct Slot {
    /// From the top: 55 bits of the key's hash, 8 bits for the part of the quota that was used when the
    /// count was last charged under the lock, and one bit for the mark. Changes only while the slot is
    /// held.
    tag: AtomicU64,
    /// From the top: the instant at which the state expires, in 52 bits; 10 bits of its rest;
    /// [`Count::COMPACT`]; [`Count::HELD`].
    word: AtomicU64,
}

/// The contents of a slot, its third word included.
#[derive(Clone, Copy)]
pub(super) struct Count {
    pub(super) tag: u64,
    word: u64,
    /// The state's rest; or, where the word has the rest, the time in which the token bucket fills.
    pub(super) rest: u64,
}

impl Count {
    pub(super) const NOTHING: Self = Self {
        tag: 0,
        word: 0,
        rest: 0,
    };
    pub(super) const KEY: u64 = !0x1ff;
    const MARK: u64 = 1;

    /// The latest instant that fits, in microseconds since the epoch: in the year 2112.
    const LATEST: u64 = (1 << 52) - 1;
    const PART: u64 = (1 << 10) - 1;
    /// The word holds the whole state, so that it can be charged without the lock.
    const COMPACT: u64 = 2;
    /// Exactly one thread may write the slot: one that holds the bucket's lock, or a charge without
    /// the lock, for the few instructions between its exchange and its store.
    const HELD: u64 = 1;

    pub(super) fn new(key: Key, quota: &Quota, state: State, now: u64, mark: bool) -> Self {
        let [until, rest] = state.words();
        let until = until.min(Self::LATEST) << 12;
        let (word, rest, used) = match Self::compact(quota) {
            Some(bucket) => {
                // A state may come from another store, which may hold any number.
                let rest = rest.min(Self::PART);
                (until | rest << 2 | Self::COMPACT, bucket.lifetime(), 0)
            }
            None => (until, rest, quota.used(state, now)),
        };
        Self {
            tag: key.tag() | u64::from(used) << 1 | u64::from(mark),
            word,
            rest,
        }
    }

    /// The quota's token bucket, if its states fit in one word.
    #[inline]
    pub(super) fn compact(quota: &Quota) -> Option<&TokenBucket> {
        quota.token_bucket_within(Self::PART + 1)
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        let rest = match self.word & Self::COMPACT {
            0 => self.rest,
            _ => self.word >> 2 & Self::PART,
        };
        State::from_words([self.word >> 12, rest])
    }

    /// The word of the slot, without [`Count::HELD`].
    pub(super) fn word(&self) -> u64 {
        self.word
    }

    pub(super) fn is_marked(&self, now: u64) -> bool {
        self.tag & Self::MARK != 0 && !self.state().is_expired(now)
    }

    /// The order of eviction, smallest first: by the used part of the quota, which compares quotas of
    /// any period, and then by the state.
    pub(super) fn debt(&self, now: u64) -> (u8, [u64; 2]) {
        let words = self.state().words();
        let used = match self.word & Self::COMPACT {
            0 => (self.tag >> 1) as u8,
            _ => {
                let debt = words[0].saturating_sub(now).min(self.rest);
                // A bucket fills in at most ten years, so the product is small enough.
                (debt * 255 / self.rest.max(1)) as u8
            }
        };
        (used, words)
    }
}

impl Slot {
    #[inline]
    pub(super) fn has(&self, key: Key) -> bool {
        self.tag.load(Ordering::Relaxed) & Count::KEY == key.tag()
    }

    /// Loads the count, with a rest that was loaded before.
    pub(super) fn look(&self, rest: u64) -> Count {
        Count {
            tag: self.tag.load(Ordering::Relaxed),
            word: self.word.load(Ordering::Relaxed) & !Count::HELD,
            rest,
        }
    }

    /// Holds the slot if its count can be charged without the lock, and says whether it did. The
    /// caller has locked the bucket, so only such a charge can be in the way, and that ends after a
    /// few instructions.
    pub(super) fn hold(&self) -> bool {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & Count::COMPACT == 0 {
                return false;
            }
            if word & Count::HELD == 0 && self.hold_if(word) {
                return true;
            }
            yield_now();
        }
    }

    /// Holds the slot if its word is still `word` and no other thread holds it.
    #[inline]
    pub(super) fn hold_if(&self, word: u64) -> bool {
        let (held, order) = (word | Count::HELD, Ordering::Acquire);
        self.word
            .compare_exchange(word, held, order, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether another thread holds the slot.
    #[cold]
    pub(super) fn is_held(&self) -> bool {
        self.word.load(Ordering::Relaxed) & Count::HELD != 0
    }

    /// Writes a count, except for its rest, into a held slot, and releases the slot.
    pub(super) fn set(&self, count: Count) {
        self.tag.store(count.tag, Ordering::Relaxed);
        // Release: a thread that sees this word sees its tag and its rest too.
        self.word.store(count.word, Ordering::Release);
    }

    /// Releases a held slot.
    pub(super) fn release(&self) {
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word & !Count::HELD, Ordering::Release);
    }

    /// Loads a key's state if it fits in one word and no thread holds the slot.
    #[inline]
    pub(super) fn compact(&self, key: Key) -> Option<Compact<'_>> {
        let word = self.word.load(Ordering::Acquire);
        let is_free = word & (Count::COMPACT | Count::HELD) == Count::COMPACT;
        // The tag is loaded after the word, so that a word which another key wrote comes with that
        // key's tag.
        let tag = self.tag.load(Ordering::Relaxed);
        let slot = self;
        (is_free && tag & Count::KEY == key.tag()).then_some(Compact { slot, tag, word })
    }
}

/// A loaded state that fits in one word.
pub(super) struct Compact<'a> {
    slot: &'a Slot,
    tag: u64,
    word: u64,
}

impl Compact<'_> {
    /// The loaded count without the time in which the bucket fills. It may be another key's, if the
    /// slot was evicted and reused between the two loads.
    pub(super) fn count(&self) -> Count {
        Count {
            tag: self.tag,
            word: self.word,
            rest: 0,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        State::from_words([self.word >> 12, self.word >> 2 & Count::PART])
    }

    /// Replaces the state; false if the slot was changed or held since the state was loaded. `None`
    /// if the new state does not fit in a word.
    ///
    /// ABA: since the load, the slot may have been evicted and reused for another key whose state is
    /// the same word, for instance where two identities are charged the same in one microsecond. The
    /// exchange then succeeds, but it only holds the slot. The tag is compared while the slot is
    /// held, and no thread can change the tag of a slot that it does not hold, so the new state is
    /// never written over another key's.
    #[inline]
    pub(super) fn replace(&self, next: State) -> Option<bool> {
        let [until, rest] = next.words();
        if until > Count::LATEST {
            return None;
        }
        if !self.slot.hold_if(self.word) {
            return Some(false);
        }
        let is_same_key = self.slot.tag.load(Ordering::Relaxed) == self.tag;
        let next = until << 12 | rest << 2 | Count::COMPACT;
        let word = if is_same_key { next } else { self.word };
        self.slot.word.store(word, Ordering::Release);
        Some(is_same_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_fraction_does_not_change_the_instant() {
        let (quota, until) = (Quota::per_second(3), 1_000_000);
        for rest in [0, 2, 1_023, 1_024, u64::MAX] {
            let state = State::from_words([until, rest]);
            let count = Count::new(Key(0), &quota, state, 0, false);
            assert_eq!(count.state().words()[0], until, "{rest}");
        }
    }
}
