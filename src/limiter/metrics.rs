//! The metrics of a limiter: decisions, waits, and the operations of its store.

use std::time::Duration;

use super::decision::Decision;
use crate::identity::Identity;
use crate::metrics::{DecisionMeter, DecisionResult, LazyCounter, LazyHistogram};
use crate::quota::{Kind, Limits};
use crate::store::{Check, StoreErrorKind};

/// An operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Check,
    /// A check of cost 0, from whose states the requested check is previewed.
    Peek,
    Reset,
    Probe,
    Settle,
    Renew,
}

impl Operation {
    const COUNT: usize = Self::Renew as usize + 1;

    /// Returns the check to send to the store.
    pub(super) fn charged<'a>(self, check: &Check<'a>) -> Check<'a> {
        match self {
            Self::Peek => check.cost(0),
            _ => *check,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Peek => "peek",
            Self::Reset => "reset",
            Self::Probe => "probe",
            Self::Settle => "settle",
            Self::Renew => "renew",
        }
    }
}

pub(super) struct Meter {
    store: &'static str,
    decisions: DecisionMeter,
    degraded: LazyCounter,
    waits: LazyHistogram,
    delays: LazyHistogram,
    /// By operation and status.
    operations: [[LazyCounter; STATUSES.len()]; Operation::COUNT],
    /// By kind.
    errors: [LazyCounter; StoreErrorKind::COUNT],
}

/// The labels of an operation's status.
const STATUSES: [&str; 3] = ["ok", "timed_out", "error"];

impl Meter {
    pub(super) fn new(store: &'static str) -> Self {
        Self {
            store,
            decisions: DecisionMeter::new(),
            degraded: LazyCounter::new(),
            waits: LazyHistogram::new(),
            delays: LazyHistogram::new(),
            operations: [const { [const { LazyCounter::new() }; STATUSES.len()] };
                Operation::COUNT],
            errors: [const { LazyCounter::new() }; StoreErrorKind::COUNT],
        }
    }

    /// Gives the policies of a layer rows of their own.
    pub(super) fn configure(&self, limits: &Limits) {
        self.decisions.reserve_rows(limits);
    }

    /// Counts a decision.
    pub(super) fn decided(&self, identity: &Identity, decision: &Decision<'_>, shadow: bool) {
        let result = match (decision.is_allowed(), shadow) {
            (true, _) => DecisionResult::Allowed,
            (false, false) => DecisionResult::Blocked,
            (false, true) => DecisionResult::ShadowBlocked,
        };
        let (policy, remaining) = (decision.policy(), decision.remaining());
        // The kind of the level that the binding policy counts.
        let kind = policy.level().map_or(identity.kind(), Kind::as_str);
        self.decisions.record(kind, policy, result, remaining);
        if decision.is_degraded() {
            let labels = [("store", self.store)];
            self.degraded
                .increment("rate_limit_degraded_total", &labels);
        }
    }

    /// Counts an operation of the store, and its error if it failed.
    pub(super) fn operation(&self, operation: Operation, error: Option<StoreErrorKind>) {
        let status = match error {
            None => 0,
            Some(StoreErrorKind::TimedOut) => 1,
            Some(_) => 2,
        };
        let labels = [
            ("store", self.store),
            ("operation", operation.label()),
            ("status", STATUSES[status]),
        ];
        self.operations[operation as usize][status]
            .increment("rate_limit_store_operations_total", &labels);
        if let Some(kind) = error {
            let labels = [("kind", kind.as_str())];
            self.errors[kind as usize].increment("rate_limit_errors_total", &labels);
        }
    }

    /// Records the delay of a queued check.
    pub(super) fn delayed(&self, delay: Duration) {
        let labels = [("store", self.store)];
        let seconds = delay.as_secs_f64();
        self.delays
            .record("rate_limit_delay_seconds", &labels, seconds);
    }

    /// Records how long a check waited for the store.
    pub(super) fn waited(&self, time: Duration) {
        let labels = [("store", self.store)];
        let seconds = time.as_secs_f64();
        self.waits
            .record("rate_limit_check_duration_seconds", &labels, seconds);
    }
}
