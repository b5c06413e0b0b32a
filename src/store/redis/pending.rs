//! A check on its way to the server and back.
//!
//! The [`PendingCheck`] is queued and sent. The caller awaits the [`Answer`].

use std::ops::Deref;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::unavailable;
use super::fingerprint::Fingerprint;
use super::script::Operation;
use crate::store::{OwnedCheck, StoreError, Verdict};

type CheckResult = Result<Verdict, StoreError>;

/// A check or a reset that has not been answered yet. If it is dropped, the caller gets an error.
pub(super) struct PendingCheck {
    /// Boxed, since queues move pending checks.
    request: Box<Request>,
    sender: oneshot::Sender<CheckResult>,
    /// How many times it was sent again after the server had not run it.
    pub(super) retries: u32,
    /// Whether to send `ASKING` first: the node is importing the hash slot.
    pub(super) asking: bool,
    /// Whether it is sent in a call of its own: its hash slot is being moved, and the cluster refuses
    /// calls whose keys are on both nodes.
    pub(super) alone: bool,
}

/// The answer to a check or a reset.
pub(super) struct Answer(oneshot::Receiver<CheckResult>);

/// A check or a reset.
pub(super) struct Request {
    pub(super) operation: Operation,
    pub(super) check: OwnedCheck,
    pub(super) fingerprint: Fingerprint,
    /// The time from the start to the deadline.
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
    /// Whether to try even a server that has just failed.
    pub(super) is_probe: bool,
    /// The hash slot of the keys; 0 outside of a cluster.
    pub(super) slot: u16,
}

impl Request {
    pub(super) fn new(
        operation: Operation,
        check: OwnedCheck,
        fingerprint: Fingerprint,
        timeout: Duration,
        deadline: Instant,
    ) -> Self {
        Self {
            operation,
            check,
            fingerprint,
            timeout,
            deadline,
            is_probe: false,
            slot: 0,
        }
    }

    /// Returns the check to queue, and its answer.
    pub(super) fn start(self) -> (PendingCheck, Answer) {
        let (sender, receiver) = oneshot::channel();
        let pending = PendingCheck {
            request: Box::new(self),
            sender,
            retries: 0,
            asking: false,
            alone: false,
        };
        (pending, Answer(receiver))
    }
}

impl Deref for PendingCheck {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

impl PendingCheck {
    /// Returns whether the caller dropped the [`Answer`].
    pub(super) fn is_cancelled(&self) -> bool {
        self.sender.is_closed()
    }

    /// Answers the caller. Returns whether the caller still waits.
    pub(super) fn answer(self, answer: CheckResult) -> bool {
        self.sender.send(answer).is_ok()
    }

    /// Returns whether a reply at `reply_at` would miss the deadline. A check that has used less than half
    /// of its timeout is sent all the same: the server may answer faster than the last time.
    pub(super) fn would_time_out(&self, now: Instant, reply_at: Instant) -> bool {
        self.deadline <= now || self.deadline < reply_at && self.deadline < now + self.timeout / 2
    }

    /// Returns whether the two can be one batch item: equal checks with equal timeouts.
    pub(super) fn can_coalesce(&self, other: &Self) -> bool {
        let compared = |pending: &Self| {
            let (check, cost) = (pending.fingerprint.check, pending.check.borrow().cost);
            (check, cost, pending.timeout, pending.asking, pending.alone)
        };
        let are_checks = [self.operation, other.operation] == [Operation::Check; 2];
        are_checks && compared(self) == compared(other)
    }
}

impl Answer {
    /// Waits for the answer.
    pub(super) async fn wait(self) -> CheckResult {
        let dropped = |_| {
            Err(unavailable(
                "the Tokio runtime that sent the check has shut down",
            ))
        };
        self.0.await.unwrap_or_else(dropped)
    }
}

/// Answers all of these checks with the same error.
pub(super) fn fail_all(pending: impl IntoIterator<Item = PendingCheck>, error: &StoreError) {
    for check in pending {
        check.answer(Err(error.clone()));
    }
}
