use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::breaker::{Breaker, LONGEST_WAIT};
use super::limiter::Shared;
use super::metrics::Operation;
use super::pending::within;
use crate::events;
use crate::metrics;
use crate::random::jitter;
use crate::store::{StoreError, StoreErrorKind, Verdict};

/// How many lanes are kept before unused ones are dropped: as many as the most nodes that a Redis
/// Cluster should have.
const MOST_LANES: usize = 1_000;

/// The independent parts of a store, made as they are first used.
pub(super) struct Lanes {
    threshold: NonZeroU32,
    /// Most stores have no other.
    first: Arc<Lane>,
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
            first: Arc::new(Lane::new(0, threshold)),
            lanes: RwLock::default(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Arc<Lane> {
        if index == 0 {
            return self.first.clone();
        }
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&index) {
            return lane.clone();
        }
        drop(lanes);
        let new = || Lane::new(index, self.threshold);
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= MOST_LANES {
            // Lanes of servers that are gone. A lane in use, or whose breaker is open, is kept.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        lanes
            .entry(index)
            .or_insert_with(|| Arc::new(new()))
            .clone()
    }
}

impl Lane {
    fn new(index: usize, threshold: NonZeroU32) -> Self {
        Self {
            index,
            breaker: Mutex::new(Breaker::new(threshold.get())),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.breaker().is_open(now)
    }

    pub(super) fn succeeded(&self) {
        self.breaker().succeeded();
    }
}

impl Shared {
    /// Takes note of a check that is under way.
    ///
    /// If none has been answered for a while, that may be the store, or those who asked may have
    /// hung up before the answer. A probe finds out.
    pub(super) fn sent(self: &Arc<Self>, lane: &Arc<Lane>, began: Instant) {
        if !lane.breaker().is_unanswered(began, self.deadline) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (shared, lane) = (self.clone(), lane.clone());
            runtime.spawn(async move {
                match shared.probe(&lane, shared.deadline).await {
                    Ok(_) => lane.succeeded(),
                    Err(error) => shared.failed(&lane, began, &error),
                }
            });
        }
    }

    async fn probe(&self, lane: &Lane, patience: Duration) -> Result<Verdict, StoreError> {
        let probe = self.store.probe(lane.index, patience).wait();
        let answer = within(patience, probe).await;
        let error = answer.as_ref().err().map(StoreError::kind);
        self.meter.operation(Operation::Probe, error);
        answer
    }

    /// Takes note of a failure.
    pub(super) fn failed(self: &Arc<Self>, lane: &Arc<Lane>, began: Instant, error: &StoreError) {
        match error.kind() {
            // The store has answered, if not well.
            StoreErrorKind::Unusable => lane.succeeded(),
            StoreErrorKind::Overloaded => {}
            _ => self.report(lane, began, error),
        }
    }

    /// Reports a failure to a lane's breaker, and begins to probe the lane if that opens it. Without a runtime
    /// nobody could probe, so then nothing is reported.
    fn report(self: &Arc<Self>, lane: &Arc<Lane>, began: Instant, error: &StoreError) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut breaker = lane.breaker();
        if !breaker.failed(began, Instant::now()) {
            return;
        }
        let probing = Probing {
            opening: breaker.openings(),
            lane: lane.clone(),
            store: self.store.name(),
            name: self.store.lane_name(lane.index),
            patience: self.deadline.min(LONGEST_WAIT),
            shared: Arc::downgrade(self),
        };
        drop(breaker);
        metrics::breaker(probing.store, &probing.name, true);
        events::breaker_opened(probing.store, &probing.name, error);
        runtime.spawn(probing.run());
    }
}

/// The task that probes a lane until it answers.
///
/// Whatever ends it closes the breaker: if its runtime goes before the limiter does, the next
/// check that fails starts another one.
struct Probing {
    /// Which opening of the breaker it is for.
    opening: u64,
    lane: Arc<Lane>,
    store: &'static str,
    /// The lane's name when the breaker opened.
    name: String,
    /// How long a probe may take: however long checks may, it should not hang for long.
    patience: Duration,
    shared: Weak<Shared>,
}

impl Probing {
    async fn run(self) {
        while let Some(wait) = self.next_wait() {
            sleep(wait).await;
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            let answer = shared.probe(&self.lane, self.patience).await;
            // What a store remembers does not prove that it is back.
            if answer.is_ok_and(|verdict| !verdict.remembered) {
                events::breaker_closed(self.store, &self.name);
                return;
            }
        }
    }

    fn next_wait(&self) -> Option<Duration> {
        let mut breaker = self.breaker()?;
        Some(breaker.next_wait(jitter(), Instant::now(), self.patience))
    }

    /// The breaker, unless it has closed meanwhile.
    fn breaker(&self) -> Option<MutexGuard<'_, Breaker>> {
        let breaker = self.lane.breaker();
        breaker.is_open_since(self.opening).then_some(breaker)
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        if let Some(mut breaker) = self.breaker() {
            breaker.close(Instant::now());
        }
        metrics::breaker(self.store, &self.name, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_servers_that_are_gone_are_dropped() {
        let lanes = Lanes::new(NonZeroU32::MIN);
        let kept = lanes.get(1);
        kept.breaker().failed(Instant::now(), Instant::now());
        for index in 2..10 * MOST_LANES {
            drop(lanes.get(index));
        }
        let count = lanes.lanes.read().map(|lanes| lanes.len());
        assert!(count.expect("no thread panicked") <= MOST_LANES);
        assert!(Arc::ptr_eq(&lanes.get(1), &kept), "a lane in use is kept");
    }
}
