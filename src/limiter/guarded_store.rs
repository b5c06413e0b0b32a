use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::breaker::{Breaker, LONGEST_WAIT};
use super::events;
use super::lanes::{Lane, Lanes};
use super::metrics::{Meter, Operation};
use crate::metrics;
use crate::random::jitter;
use crate::store::{Check, Outcome, Receipt, Store, StoreError, StoreErrorKind, Verdict};
use crate::timeouts::Timeouts;

/// The timeout of a renewal.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(3);

/// A store with a deadline, and with a circuit breaker and a probe for each of its lanes.
pub(super) struct GuardedStore {
    pub(super) store: Box<dyn Store>,
    pub(super) is_infallible: bool,
    pub(super) deadline: Duration,
    pub(super) meter: Meter,
    pub(super) timeouts: Timeouts,
    has_warned_of_settlement: AtomicBool,
    settlements: Settlements,
    lanes: Lanes,
}

/// The settlements that have not been answered yet.
#[derive(Default)]
struct Settlements {
    pending: AtomicUsize,
    /// Notified when none is left.
    all_answered: Notify,
}

/// The lane of a check in flight, and when the check was started.
pub(super) struct LaneUse {
    lane: Arc<Lane>,
    /// How often the breaker had opened.
    openings: u64,
    pub(super) started: Instant,
}

/// A lane whose breaker has opened a number of times.
pub(super) struct LaneOpening {
    lane: Arc<Lane>,
    openings: u64,
}

impl LaneOpening {
    /// Returns whether the breaker has not opened since.
    pub(super) fn is_current(&self) -> bool {
        self.lane.breaker().openings() == self.openings
    }
}

impl LaneUse {
    pub(super) fn opening(&self) -> LaneOpening {
        LaneOpening {
            lane: self.lane.clone(),
            openings: self.openings,
        }
    }

    pub(super) fn is_breaker_open(&self) -> bool {
        self.lane.breaker().is_open(Instant::now())
    }
}

/// The error of a check whose lane has an open circuit breaker.
pub(super) struct BreakerOpen;

impl From<BreakerOpen> for StoreError {
    fn from(BreakerOpen: BreakerOpen) -> Self {
        StoreErrorKind::Unavailable.into()
    }
}

impl GuardedStore {
    pub(super) fn new(
        store: Box<dyn Store>,
        deadline: Duration,
        failures_to_open: NonZeroU32,
    ) -> Self {
        Self {
            is_infallible: store.is_infallible(),
            meter: Meter::new(store.name()),
            store,
            deadline,
            timeouts: Timeouts::default(),
            has_warned_of_settlement: AtomicBool::new(false),
            settlements: Settlements::default(),
            lanes: Lanes::new(failures_to_open),
        }
    }

    /// Returns the capacity of a fallback for this store. A store that cannot fail needs no fallback, and
    /// no memory for it.
    pub(super) fn fallback_capacity(&self, wanted: usize) -> usize {
        match self.is_infallible {
            true => 0,
            false => wanted,
        }
    }

    /// Begins a use of the check's lane, or returns `None` for a store that needs no breaker.
    pub(super) fn enter(&self, check: &Check<'_>) -> Result<Option<LaneUse>, BreakerOpen> {
        if self.is_infallible {
            return Ok(None);
        }
        let lane = self.lanes.get(self.store.lane(check));
        let started = Instant::now();
        let (is_open, openings) = {
            let mut breaker = lane.breaker();
            (breaker.is_open(started), breaker.openings())
        };
        match is_open {
            true => Err(BreakerOpen),
            false => Ok(Some(LaneUse {
                lane,
                openings,
                started,
            })),
        }
    }

    /// Records that a check was sent and is pending.
    ///
    /// If no check of the lane has been answered for a while, either the store is slow, or every caller
    /// dropped its future before the answer came. A probe finds out.
    pub(super) fn sent(self: &Arc<Self>, LaneUse { lane, started, .. }: &LaneUse) {
        if !lane.breaker().is_unanswered(*started, self.deadline) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (store, lane, started) = (self.clone(), lane.clone(), *started);
            runtime.spawn(async move {
                match store.probe(&lane, store.deadline).await {
                    Ok(_) => lane.breaker().succeeded(),
                    Err(error) => store.failed(&lane, started, &error),
                }
            });
        }
    }

    /// Records an answer, or the error instead of one.
    pub(super) fn answered(
        self: &Arc<Self>,
        operation: Operation,
        lane: Option<&LaneUse>,
        answer: Result<(), &StoreError>,
    ) {
        let error = answer.err().map(StoreError::kind);
        self.meter.operation(operation, error);
        match (lane, answer) {
            (None, _) => {}
            (Some(LaneUse { lane, .. }), Ok(())) => lane.breaker().succeeded(),
            (Some(LaneUse { lane, started, .. }), Err(error)) => self.failed(lane, *started, error),
        }
    }

    /// Deletes the states of a check.
    pub(super) async fn reset(self: &Arc<Self>, check: &Check<'_>) -> Result<(), StoreError> {
        let lane = self.enter(check)?;
        let result = match self.store.reset(&check.time_left(self.deadline)) {
            Outcome::Ready(result) => result,
            Outcome::Pending(answer) => with_timeout(self.deadline, answer).await,
        };
        self.answered(Operation::Reset, lane.as_ref(), result.as_ref().copied());
        result
    }

    /// Returns whether the store's reservations lapse unless they are renewed.
    pub(super) fn reservations_lapse(&self) -> bool {
        !self.is_infallible && self.store.can_settle()
    }

    /// Logs, once, that limits need a store that can settle charges.
    pub(super) fn warn_of_settlement(&self) {
        if !self.has_warned_of_settlement.swap(true, Ordering::Relaxed) {
            events::store_cannot_settle(self.store.name());
        }
    }

    /// Settles a charge. The answer of a server is awaited in `runtime`, or nowhere.
    pub(super) fn settle(
        self: &Arc<Self>,
        check: &Check<'_>,
        receipt: &Receipt,
        used: u32,
        runtime: Option<&Handle>,
    ) {
        let record = |store: &Self, result: Result<(), StoreError>| {
            let error = result.as_ref().err().map(StoreError::kind);
            store.meter.operation(Operation::Settle, error);
        };
        match (self.store.settle(check, receipt, used), runtime) {
            (Outcome::Ready(result), _) => record(self, result),
            (Outcome::Pending(_), None) => {}
            (Outcome::Pending(answer), Some(runtime)) => {
                let pending = PendingSettlement::new(self.clone());
                runtime.spawn(async move { record(&pending.0, answer.await) });
            }
        }
    }

    /// Waits until all settlements so far were answered.
    pub(super) async fn flush(&self) {
        loop {
            let answered = self.settlements.all_answered.notified();
            if self.settlements.pending.load(Ordering::Acquire) == 0 {
                return;
            }
            answered.await;
        }
    }

    /// Renews the reservations of a charge.
    pub(super) async fn renew(
        self: &Arc<Self>,
        check: &Check<'_>,
        receipt: &Receipt,
        lane: Option<LaneUse>,
    ) -> Result<Receipt, StoreError> {
        let result = match self.store.renew(check, receipt) {
            Outcome::Ready(result) => result,
            Outcome::Pending(answer) => with_timeout(RENEWAL_TIMEOUT, answer).await,
        };
        let answer = result.as_ref().map(drop);
        self.answered(Operation::Renew, lane.as_ref(), answer);
        result
    }

    async fn probe(&self, lane: &Lane, patience: Duration) -> Result<Verdict, StoreError> {
        let probe = self.store.probe(lane.index, patience).wait();
        let answer = with_timeout(patience, probe).await;
        let error = answer.as_ref().err().map(StoreError::kind);
        self.meter.operation(Operation::Probe, error);
        answer
    }

    fn failed(self: &Arc<Self>, lane: &Arc<Lane>, started: Instant, error: &StoreError) {
        match error.kind() {
            // The store has answered.
            StoreErrorKind::Unusable => lane.breaker().succeeded(),
            // The check was not sent.
            StoreErrorKind::Overloaded => {}
            _ => self.count_failure(lane, started, error),
        }
    }

    /// Counts a failure in the lane's breaker, and starts to probe the lane if the breaker opens. Without
    /// a runtime no task could probe, so the breaker must not open.
    fn count_failure(self: &Arc<Self>, lane: &Arc<Lane>, started: Instant, error: &StoreError) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut breaker = lane.breaker();
        if !breaker.failed(started, Instant::now()) {
            return;
        }
        let prober = Prober {
            opening: breaker.openings(),
            lane: lane.clone(),
            store_name: self.store.name(),
            lane_name: self.store.lane_name(lane.index),
            patience: self.deadline.min(LONGEST_WAIT),
            store: Arc::downgrade(self),
        };
        drop(breaker);
        metrics::breaker(prober.store_name, &prober.lane_name, true);
        events::breaker_opened(prober.store_name, &prober.lane_name, error);
        runtime.spawn(prober.run());
    }
}

/// Counts as pending until it is dropped: when it was answered, or when its runtime has shut down.
struct PendingSettlement(Arc<GuardedStore>);

impl PendingSettlement {
    fn new(store: Arc<GuardedStore>) -> Self {
        store.settlements.pending.fetch_add(1, Ordering::AcqRel);
        Self(store)
    }
}

impl Drop for PendingSettlement {
    fn drop(&mut self) {
        let settlements = &self.0.settlements;
        if settlements.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            settlements.all_answered.notify_waiters();
        }
    }
}

impl fmt::Debug for GuardedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedStore")
            .field("store", &self.store.name())
            .finish_non_exhaustive()
    }
}

/// Waits for a store's answer for at most `patience`.
async fn with_timeout<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let timed_out = |_| Err(StoreErrorKind::TimedOut.into());
    timeout(patience, answer).await.unwrap_or_else(timed_out)
}

/// The task that probes a lane until it answers.
///
/// The breaker closes however the task ends. If the task's runtime shuts down before the limiter is
/// dropped, the next failures open the breaker again, and start another task.
struct Prober {
    /// The opening of the breaker that this task is for.
    opening: u64,
    lane: Arc<Lane>,
    store_name: &'static str,
    /// The lane's name when the breaker opened.
    lane_name: String,
    /// The timeout of one probe. It is limited even if the limiter's deadline is long.
    patience: Duration,
    store: Weak<GuardedStore>,
}

impl Prober {
    async fn run(self) {
        while let Some(wait) = self.next_wait() {
            sleep(wait).await;
            let Some(store) = self.store.upgrade() else {
                return;
            };
            let answer = store.probe(&self.lane, self.patience).await;
            // A verdict that the store's client remembered does not prove that the store works.
            if answer.is_ok_and(|verdict| !verdict.remembered) {
                events::breaker_closed(self.store_name, &self.lane_name);
                return;
            }
        }
    }

    fn next_wait(&self) -> Option<Duration> {
        let mut breaker = self.breaker()?;
        Some(breaker.next_wait(jitter(), Instant::now(), self.patience))
    }

    /// Returns the breaker, unless it has closed since this task was started.
    fn breaker(&self) -> Option<MutexGuard<'_, Breaker>> {
        let breaker = self.lane.breaker();
        breaker.is_open_since(self.opening).then_some(breaker)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        if let Some(mut breaker) = self.breaker() {
            breaker.close(Instant::now());
        }
        metrics::breaker(self.store_name, &self.lane_name, false);
    }
}
