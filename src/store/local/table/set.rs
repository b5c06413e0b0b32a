use super::slot::{Entry, Key, Slot};
use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

pub(super) const SLOTS_PER_SET: usize = 5;

/// The number of slots in a set's first cache line. A lock-free charge accesses no other.
const NEAR_SLOTS: usize = 4;

/// Five slots and the mutex that guards them. The slots are atomic, so that an entry is found, and in
/// the common case charged, without the mutex.
#[derive(Default)]
#[repr(C, align(128))]
pub(super) struct Set {
    slots: [Slot; SLOTS_PER_SET],
    /// The third word of each slot, in the second cache line.
    third_words: [AtomicU64; SLOTS_PER_SET],
    mutex: Mutex<()>,
}

/// A slot and its set.
#[derive(Clone, Copy)]
pub(super) struct SlotRef<'a> {
    pub(super) set: &'a Set,
    pub(super) slot: &'a Slot,
    third_word: &'a AtomicU64,
}

impl Set {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.mutex.lock()
    }

    #[inline(always)]
    pub(super) fn slots(&self) -> impl Iterator<Item = SlotRef<'_>> {
        let slots = self.slots.iter().zip(&self.third_words);
        slots.map(|(slot, third_word)| SlotRef {
            set: self,
            slot,
            third_word,
        })
    }

    /// Finds a key in the slots of the first cache line.
    #[inline(always)]
    pub(super) fn find_near(&self, key: Key) -> Option<SlotRef<'_>> {
        self.find_in(&self.slots[..NEAR_SLOTS], key)
    }

    pub(super) fn find(&self, key: Key) -> Option<SlotRef<'_>> {
        self.find_in(&self.slots, key)
    }

    /// Compares all slots without branches, since a branch predictor cannot predict which slot matches.
    #[inline(always)]
    fn find_in<'a>(&'a self, slots: &'a [Slot], key: Key) -> Option<SlotRef<'a>> {
        let matches = slots.iter().enumerate();
        let matches = matches.map(|(index, slot)| u32::from(slot.has(key)) << index);
        let index = matches.sum::<u32>().trailing_zeros() as usize;
        Some(SlotRef {
            set: self,
            slot: slots.get(index)?,
            third_word: &self.third_words[index],
        })
    }
}

impl SlotRef<'_> {
    /// Loads the slot's entry, which other threads may change at any time unless the slot is held.
    pub(super) fn load(&self) -> Entry {
        self.slot.load(self.third_word.load(Ordering::Relaxed))
    }

    /// Writes an entry into a held slot, and releases the slot.
    pub(super) fn store_and_release(&self, entry: Entry) {
        self.third_word.store(entry.third_word, Ordering::Relaxed);
        self.slot.store_and_release(entry);
    }
}
