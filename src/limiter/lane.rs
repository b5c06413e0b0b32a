use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::breaker::Breaker;
use super::limiter::Shared;
use super::pending::within;
use crate::events;
use crate::metrics::Operation;
use crate::store::StoreError;

/// The independent parts of a store, made as they are first used.
pub(super) struct Lanes {
    threshold: NonZeroU32,
    lanes: RwLock<HashMap<usize, Arc<Lane>>>,
}

/// A part of the store, with a breaker of its own.
pub(super) struct Lane {
    index: usize,
    breaker: Mutex<Breaker>,
}

impl Lanes {
    pub(super) fn new(threshold: NonZeroU32) -> Self {
        Self {
            threshold,
            lanes: RwLock::default(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Arc<Lane> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&index) {
            return lane.clone();
        }
        drop(lanes);
        let new = || Lane {
            index,
            breaker: Mutex::new(Breaker::new(self.threshold.get())),
        };
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        lanes
            .entry(index)
            .or_insert_with(|| Arc::new(new()))
            .clone()
    }
}

impl Lane {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    pub(super) fn succeeded(&self) {
        self.breaker().succeeded();
    }
}

impl Shared {
    /// Takes note of a failure. If it opens the breaker, a task begins to probe the lane.
    pub(super) fn failed(self: &Arc<Self>, lane: &Arc<Lane>, began: Instant, error: &StoreError) {
        // Without a runtime nobody could probe, so the breaker had better stay closed.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if error.kind().counts_against_store() && lane.breaker().failed(began, Instant::now()) {
            self.meter.breaker(lane.index, true);
            events::store_away(self.store.name(), lane.index, error);
            runtime.spawn(
                Probing {
                    lane: lane.clone(),
                    shared: Arc::downgrade(self),
                }
                .run(),
            );
        }
    }
}

/// The task that probes a lane until it answers.
///
/// Whatever ends it closes the breaker: if its runtime goes before the limiter does, the next
/// check that fails starts another one.
struct Probing {
    lane: Arc<Lane>,
    shared: Weak<Shared>,
}

impl Probing {
    async fn run(self) {
        loop {
            let wait = self.lane.breaker().next_wait(jitter());
            sleep(wait).await;
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            let probe = shared.store.probe(self.lane.index).wait();
            let answer = within(shared.deadline, probe).await;
            shared.meter.operation(
                Operation::Probe,
                answer.as_ref().err().map(StoreError::kind),
            );
            if answer.is_ok() {
                events::store_back(shared.store.name(), self.lane.index);
                return;
            }
        }
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.lane.breaker().close(Instant::now());
        if let Some(shared) = self.shared.upgrade() {
            shared.meter.breaker(self.lane.index, false);
        }
    }
}

/// A random number from 0 to 1.
fn jitter() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
