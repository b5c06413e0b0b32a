//! Five slots and their lock.

use super::Key;
use super::slot::{Count, Slot};
use crate::store::local::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

pub(super) const SLOTS_PER_BUCKET: usize = 5;

/// The number of slots in the first cache line. A charge without the lock needs nothing else.
const NEAR: usize = 4;

/// The lock guards the slots. The slots are atomic, so that a key is found, and mostly charged,
/// without it.
#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct Bucket {
    slots: [Slot; SLOTS_PER_BUCKET],
    /// The third word of each slot, in the second cache line.
    rests: [AtomicU64; SLOTS_PER_BUCKET],
    lock: Mutex<()>,
}

/// A slot with its bucket.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) slot: &'a Slot,
    rest: &'a AtomicU64,
}

impl Bucket {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock()
    }

    #[inline(always)]
    pub(super) fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let places = self.slots.iter().zip(&self.rests);
        places.map(|(slot, rest)| Place {
            bucket: self,
            slot,
            rest,
        })
    }

    /// Finds a key among the slots of the first cache line.
    #[inline(always)]
    pub(super) fn find_near(&self, key: Key) -> Option<Place<'_>> {
        self.find_among(&self.slots[..NEAR], key)
    }

    pub(super) fn find(&self, key: Key) -> Option<Place<'_>> {
        self.find_among(&self.slots, key)
    }

    /// Compares all slots without a branch, since which one matches cannot be predicted.
    #[inline(always)]
    fn find_among<'a>(&'a self, slots: &'a [Slot], key: Key) -> Option<Place<'a>> {
        let numbered = slots.iter().enumerate();
        let same = numbered.map(|(slot, kept)| u32::from(kept.has(key)) << slot);
        let slot = same.sum::<u32>().trailing_zeros() as usize;
        Some(Place {
            bucket: self,
            slot: slots.get(slot)?,
            rest: &self.rests[slot],
        })
    }
}

impl Place<'_> {
    /// The slot's count, which may change at once unless the slot is held.
    pub(super) fn look(&self) -> Count {
        self.slot.look(self.rest.load(Ordering::Relaxed))
    }

    /// Writes a count into a held slot, and releases the slot.
    pub(super) fn set(&self, count: Count) {
        self.rest.store(count.rest, Ordering::Relaxed);
        self.slot.set(count);
    }
}
