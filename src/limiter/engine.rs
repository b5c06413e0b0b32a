use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::LONGEST_WAIT;
use super::decision::Decision;
use super::failure::FailureStrategy;
use super::fallback::{Fallback, Receipts, Snapshot};
use super::guarded_store::{BreakerOpen, GuardedStore, LaneUse};
use super::metrics::Operation;
use super::open_charge::OpenCharge;
use super::permit::Permit;
use super::renewals::Renewals;
use crate::store::{BoxFuture, Check, Outcome, OwnedCheck, StoreError, StoreErrorKind, Verdict};

/// A limiter's parts, which turn a check into a decision.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) store: Arc<GuardedStore>,
    pub(super) fallback: Arc<Fallback>,
    pub(super) renewals: Renewals,
    pub(super) strategy: FailureStrategy,
    pub(super) shadow: bool,
}

/// A check that was sent to the store.
struct SentCheck {
    operation: Operation,
    /// `None` if the store cannot fail.
    guard: Option<Guard>,
    /// The time for which the caller waits: the limiter's deadline or less.
    patience: Duration,
}

/// The result of [`Engine::acquire`].
pub(crate) enum Acquired {
    Ready(Permit),
    Pending(BoxFuture<Permit>),
}

/// The lane of a check, and the fallback's entries when the check was sent.
struct Guard {
    lane: LaneUse,
    fallback: Snapshot,
}

impl SentCheck {
    fn lane(&self) -> Option<&LaneUse> {
        self.guard.as_ref().map(|guard| &guard.lane)
    }
}

impl Engine {
    pub(super) fn run<'a>(&self, check: &Check<'a>, operation: Operation) -> Checked<'a> {
        match check.limits.has_levels() {
            false => self.run_all(check, operation),
            true => self.run_applicable(check, operation),
        }
    }

    /// Runs a check with the policies that apply to its identity.
    #[cold]
    fn run_applicable<'a>(&self, check: &Check<'a>, operation: Operation) -> Checked<'a> {
        match check.applicable_limits() {
            Some(Cow::Borrowed(_)) => self.run_all(check, operation),
            Some(Cow::Owned(limits)) => {
                self.run_all(&check.limits(&limits), operation).into_owned()
            }
            None => {
                let decision = Decision::never(check);
                self.count(check, operation, &decision);
                Checked::Ready(decision)
            }
        }
    }

    /// Runs a check whose policies all apply.
    #[inline(always)]
    fn run_all<'a>(&self, check: &Check<'a>, operation: Operation) -> Checked<'a> {
        let guarded = &self.store;
        if guarded.is_infallible
            && operation == Operation::Check
            && let Some(status) = guarded.store.check_now(check)
        {
            let decision = Decision::of_one(check, status);
            guarded.meter.operation(operation, None);
            self.count(check, operation, &decision);
            return Checked::Ready(decision);
        }
        let Ok(lane) = guarded.enter(check) else {
            return Checked::Ready(self.past_breaker(check, operation, None));
        };
        let sent = self.prepare(check, operation, lane);
        match self.send(check, &sent) {
            Outcome::Ready(result) => Checked::Ready(self.conclude(check, &sent, &result, None)),
            Outcome::Pending(answer) => {
                let check = check.with_fallback(None).into_owned();
                let engine = self.clone();
                Checked::Pending(PendingDecision(Box::pin(async move {
                    engine.wait(&check, &sent, answer, None).await
                })))
            }
        }
    }

    /// Runs a check whose charge is settled when its permit is dropped. The permit of a denied check has
    /// nothing to settle.
    pub(super) fn acquire(&self, check: &Check<'_>) -> Acquired {
        let Some(limits) = check.applicable_limits() else {
            let decision = Decision::never(check);
            self.count(check, Operation::Check, &decision);
            return Acquired::Ready(Permit::new(decision.into_owned(), check.cost, None));
        };
        let check = check.limits(&limits).reserving();
        let (operation, mut receipts) = (Operation::Check, Receipts::default());
        let lane = match limits.is_reserving() && !self.store.store.can_settle() {
            true => {
                self.store.warn_of_settlement();
                Err(BreakerOpen)
            }
            false => self.store.enter(&check),
        };
        let Ok(lane) = lane else {
            let decision = self.past_breaker(&check, operation, Some(&mut receipts));
            return Acquired::Ready(self.permit(check.into_owned(), None, decision, receipts));
        };
        let sent = self.prepare(&check, operation, lane);
        match self.send(&check, &sent) {
            Outcome::Ready(result) => {
                let decision = self.conclude(&check, &sent, &result, Some(&mut receipts));
                Acquired::Ready(self.permit(check.into_owned(), sent.lane(), decision, receipts))
            }
            Outcome::Pending(answer) => {
                let check = check.with_fallback(None).into_owned();
                let engine = self.clone();
                Acquired::Pending(Box::pin(async move {
                    let mut receipts = Receipts::default();
                    let decision = engine.wait(&check, &sent, answer, Some(&mut receipts));
                    let decision = decision.await;
                    engine.permit(check, sent.lane(), decision, receipts)
                }))
            }
        }
    }

    fn permit(
        &self,
        check: OwnedCheck,
        lane: Option<&LaneUse>,
        decision: Decision<'_>,
        receipts: Receipts,
    ) -> Permit {
        let cost = check.borrow().cost;
        let opening = lane.map(LaneUse::opening);
        let open = OpenCharge::new(&self.store, &self.fallback, check, receipts, opening);
        let open = open.map(Arc::new);
        if let Some(open) = open.as_ref().filter(|open| open.lapses()) {
            self.renewals.add(open);
        }
        let decision = match self.shadow {
            true => decision,
            false => decision.after_delay(),
        };
        Permit::new(decision.into_owned(), cost, open)
    }

    /// Decides a check without the store.
    #[cold]
    fn past_breaker<'a>(
        &self,
        check: &Check<'a>,
        operation: Operation,
        receipts: Option<&mut Receipts>,
    ) -> Decision<'a> {
        let decision = self.degraded(check, operation, true, receipts);
        self.count(check, operation, &decision);
        decision
    }

    #[inline(always)]
    fn prepare(&self, check: &Check<'_>, operation: Operation, lane: Option<LaneUse>) -> SentCheck {
        SentCheck {
            operation,
            guard: lane.map(|lane| Guard {
                lane,
                fallback: self.fallback.snapshot(check),
            }),
            patience: check.time_left.min(self.store.deadline),
        }
    }

    /// Sends a check to the store.
    #[inline(always)]
    fn send(&self, check: &Check<'_>, sent: &SentCheck) -> Outcome {
        let guarded = &self.store;
        let charged = sent.operation.charged(check);
        let charged = match &sent.guard {
            None => charged,
            Some(guard) => charged
                .time_left(sent.patience)
                .started(Some(guard.lane.started))
                .with_fallback(guard.fallback.unsynced.as_deref()),
        };
        let outcome = guarded.store.check(&charged);
        if let (Outcome::Pending(_), Some(lane)) = (&outcome, sent.lane()) {
            guarded.sent(lane);
        }
        outcome
    }

    /// Waits for a pending answer until the check's deadline, and converts it into a decision.
    async fn wait(
        &self,
        check: &OwnedCheck,
        sent: &SentCheck,
        answer: BoxFuture<Result<Verdict, StoreError>>,
        receipts: Option<&mut Receipts>,
    ) -> Decision<'static> {
        let started = sent.lane().map(|lane| lane.started);
        let started = started.unwrap_or_else(Instant::now);
        // A deadline that no clock can represent is no deadline.
        let result = match started.checked_add(sent.patience) {
            Some(deadline) => {
                let answer = self.store.timeouts.timeout_at(deadline, answer).await;
                answer.unwrap_or_else(|| Err(StoreErrorKind::TimedOut.into()))
            }
            None => answer.await,
        };
        self.store.meter.waited(started.elapsed());
        let decision = self.conclude(&check.borrow(), sent, &result, receipts);
        decision.into_owned()
    }

    /// Converts the store's answer, or its error, into a decision.
    #[inline]
    fn conclude<'a>(
        &self,
        check: &Check<'a>,
        sent: &SentCheck,
        result: &Result<Verdict, StoreError>,
        mut receipts: Option<&mut Receipts>,
    ) -> Decision<'a> {
        let verdict = match result {
            Ok(verdict) => verdict,
            Err(error) => return self.failed(check, sent, error, receipts),
        };
        let charged = &sent.operation.charged(check);
        let decision = match &sent.guard {
            Some(guard) if !verdict.remembered => {
                self.fallback
                    .record(charged, &guard.fallback, verdict, receipts.as_deref_mut())
            }
            _ => Decision::replay(charged, verdict),
        };
        let decision = match decision {
            Ok(_) if sent.operation == Operation::Peek => Decision::preview(check, verdict),
            Ok(decision) => decision,
            Err(error) => return self.failed(check, sent, &error, receipts),
        };
        if let Some(receipts) = receipts {
            receipts.store = verdict.receipt.as_deref().cloned();
        }
        if !verdict.remembered {
            self.store.answered(sent.operation, sent.lane(), Ok(()));
        }
        self.count(check, sent.operation, &decision);
        decision
    }

    #[cold]
    fn failed<'a>(
        &self,
        check: &Check<'a>,
        sent: &SentCheck,
        error: &StoreError,
        receipts: Option<&mut Receipts>,
    ) -> Decision<'a> {
        let timed_out = error.kind() == StoreErrorKind::TimedOut;
        // A timeout caused by the caller's shorter `time_left` is not counted against the store.
        let counts = !timed_out || sent.patience == self.store.deadline;
        let lane = sent.lane().filter(|_| counts);
        self.store.answered(sent.operation, lane, Err(error));
        // With a closed breaker, other replicas may have had their answers in time.
        let is_open = sent.lane().is_some_and(LaneUse::is_breaker_open);
        let decision = self.degraded(check, sent.operation, !timed_out || is_open, receipts);
        self.count(check, sent.operation, &decision);
        decision
    }

    /// Decides by the failure strategy. `is_outage` says whether the store is unavailable to all replicas,
    /// and not only slow for this check.
    fn degraded<'a>(
        &self,
        check: &Check<'a>,
        operation: Operation,
        is_outage: bool,
        receipts: Option<&mut Receipts>,
    ) -> Decision<'a> {
        match self.strategy {
            FailureStrategy::Open => self.fallback.check(check, operation, is_outage, receipts),
            FailureStrategy::OpenUnlimited => Decision::unlimited(check),
            FailureStrategy::Closed => Decision::refused(check, LONGEST_WAIT),
        }
    }

    /// Counts a decision in the metrics.
    fn count(&self, check: &Check<'_>, operation: Operation, decision: &Decision<'_>) {
        if operation == Operation::Check {
            let meter = &self.store.meter;
            meter.decided(check.identity, decision, self.shadow);
        }
    }
}

/// A limiter's decision, which may be pending. `.await` returns it in either case.
#[derive(Debug)]
#[must_use = "a check that is not awaited may be charged without its decision being used"]
pub enum Checked<'a> {
    /// The limiter has decided already.
    Ready(Decision<'a>),
    /// The decision must be awaited. It takes the limiter's deadline at most.
    Pending(PendingDecision),
}

impl Checked<'_> {
    pub(super) fn into_owned(self) -> Checked<'static> {
        match self {
            Self::Ready(decision) => Checked::Ready(decision.into_owned()),
            Self::Pending(decision) => Checked::Pending(decision),
        }
    }
}

impl<'a> IntoFuture for Checked<'a> {
    type Output = Decision<'a>;
    type IntoFuture = CheckedFuture<'a>;

    fn into_future(self) -> CheckedFuture<'a> {
        CheckedFuture(Some(self))
    }
}

/// The future of a [`Checked`].
///
/// # Panics
///
/// If it is polled again after it returned the decision.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct CheckedFuture<'a>(Option<Checked<'a>>);

impl<'a> Future for CheckedFuture<'a> {
    type Output = Decision<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decision<'a>> {
        match self.0.take().expect("polled after completion") {
            Checked::Ready(decision) => Poll::Ready(decision),
            Checked::Pending(mut pending) => {
                let decision = Pin::new(&mut pending).poll(cx);
                self.0 = decision.is_pending().then_some(Checked::Pending(pending));
                decision
            }
        }
    }
}

/// The future of a decision that waits for the store, for the limiter's deadline at most.
///
/// Needs a Tokio runtime with its timer enabled. If the future is dropped, the store may still charge
/// the check.
///
/// # Panics
///
/// If it is polled again after it returned the decision.
#[must_use = "futures do nothing unless awaited"]
pub struct PendingDecision(BoxFuture<Decision<'static>>);

impl Future for PendingDecision {
    type Output = Decision<'static>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decision<'static>> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for PendingDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingDecision").finish_non_exhaustive()
    }
}
