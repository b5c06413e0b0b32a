use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::breaker::Breaker;
use crate::store::PrehashedHasher;

/// The number of lanes above which unused ones are removed: the recommended maximum of nodes in a Redis
/// Cluster.
const MAX_LANES: usize = 1_000;

/// The lanes of a store: its independent parts, such as the nodes of a cluster. A lane is created when
/// it is first used.
pub(super) struct Lanes {
    failures_to_open: NonZeroU32,
    /// Indexes are small numbers or hashes, which need no hash (bench: peers, one denied identity).
    lanes: RwLock<HashMap<usize, Arc<Lane>, BuildHasherDefault<PrehashedHasher>>>,
}

/// One lane, with its circuit breaker.
pub(super) struct Lane {
    pub(super) index: usize,
    breaker: Mutex<Breaker>,
}

impl Lanes {
    pub(super) fn new(failures_to_open: NonZeroU32) -> Self {
        Self {
            failures_to_open,
            lanes: RwLock::default(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Arc<Lane> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&index) {
            return lane.clone();
        }
        drop(lanes);
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= MAX_LANES {
            // Removes the lanes of servers that no longer exist. A lane that is in use, or that is being
            // probed, has a second owner.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let new = || Arc::new(Lane::new(index, self.failures_to_open));
        lanes.entry(index).or_insert_with(new).clone()
    }
}

impl Lane {
    fn new(index: usize, failures_to_open: NonZeroU32) -> Self {
        Self {
            index,
            breaker: Mutex::new(Breaker::new(failures_to_open.get())),
        }
    }

    pub(super) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn unused_lanes_are_removed_above_the_maximum() {
        let lanes = Lanes::new(NonZeroU32::MIN);
        let in_use = lanes.get(1);
        in_use.breaker().failed(Instant::now(), Instant::now());
        for index in 2..10 * MAX_LANES {
            drop(lanes.get(index));
        }
        let count = lanes.lanes.read().map(|lanes| lanes.len());
        assert!(count.expect("no thread panicked") <= MAX_LANES);
        assert!(Arc::ptr_eq(&lanes.get(1), &in_use), "a lane in use is kept");
    }
}
