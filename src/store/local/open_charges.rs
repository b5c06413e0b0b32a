//! The open charges of a table: charges with a permit, which are not settled yet.
//!
//! Open charges are kept outside of the table, since an eviction must not free a reservation. The map grows with
//! the number of open permits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::prehashed::PrehashedHasher;

/// Threads that open charges of different keys rarely wait for each other.
const SHARDS: usize = 16;

type Shard = HashMap<u128, OpenCharges, BuildHasherDefault<PrehashedHasher>>;

/// The open charges of all keys. Callers hold the lock of the key's table entry, so that a decision and
/// its charge are one step.
#[derive(Default)]
pub(in crate::store::local) struct OpenChargeMap {
    shards: [Mutex<Shard>; SHARDS],
    /// The number of generations so far.
    generations: AtomicU64,
}

/// The open charges of one key.
struct OpenCharges {
    /// Differs after each reset, so that receipts from before it settle nothing.
    generation: u64,
    /// The number of permits.
    permits: u64,
    /// The cost that their permits reserve.
    reserved: u32,
}

impl OpenChargeMap {
    fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        // The low half of the hash chooses the bucket in the shard's map.
        let shard = &self.shards[(key >> 64) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the cost that open permits reserve.
    pub(in crate::store::local) fn reserved(&self, key: u128) -> u32 {
        self.shard(key).get(&key).map_or(0, |open| open.reserved)
    }

    /// Opens a charge that reserves this cost. Returns its generation.
    pub(in crate::store::local) fn open(&self, key: u128, reserved: u32) -> u64 {
        let mut shard = self.shard(key);
        let open = shard.entry(key).or_insert_with(|| OpenCharges {
            generation: 1 + self.generations.fetch_add(1, Ordering::Relaxed),
            permits: 0,
            reserved: 0,
        });
        open.permits += 1;
        open.reserved = open.reserved.saturating_add(reserved);
        open.generation
    }

    /// Closes a charge that reserved this cost. Returns whether it was open: a reset closes all charges.
    pub(in crate::store::local) fn close(&self, key: u128, generation: u64, reserved: u32) -> bool {
        let mut shard = self.shard(key);
        let Entry::Occupied(mut entry) = shard.entry(key) else {
            return false;
        };
        let open = entry.get_mut();
        if open.generation != generation {
            return false;
        }
        open.permits -= 1;
        open.reserved = open.reserved.saturating_sub(reserved);
        if open.permits == 0 {
            entry.remove();
        }
        true
    }

    /// Closes all charges of a key.
    pub(in crate::store::local) fn reset(&self, key: u128) {
        self.shard(key).remove(&key);
    }
}

impl fmt::Debug for OpenChargeMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenChargeMap").finish_non_exhaustive()
    }
}
