//! A check on its way to the server and back.
//!
//! The [`PendingCheck`], which is queued and sent, and the [`Answer`], which the caller awaits, share
//! one allocation: the [`Request`].

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::error::unavailable;
use super::fingerprint::Fingerprint;
use super::script::Operation;
use crate::store::{OwnedCheck, StoreError, Verdict};

type CheckResult = Result<Verdict, StoreError>;

/// A check or a reset that has not been answered yet. Answers with an error when dropped.
pub(super) struct PendingCheck {
    request: Arc<Request>,
    /// How many times it was sent again after the server had not run it.
    pub(super) retries: u32,
    /// Whether to send `ASKING` first: the node is importing the hash slot.
    pub(super) asking: bool,
    /// Whether it is sent in a call of its own: its hash slot is being moved, and the cluster refuses
    /// calls whose keys are on both nodes.
    pub(super) alone: bool,
    is_answered: bool,
}

/// The future answer to a check or a reset.
pub(super) struct Answer(Arc<Request>);

/// A check or a reset, and its answer once there is one.
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
    delivery: Mutex<Delivery>,
}

#[derive(Default)]
struct Delivery {
    answer: Option<CheckResult>,
    /// Wakes the task that awaits the answer.
    waker: Option<Waker>,
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
            delivery: Mutex::default(),
        }
    }

    /// Returns the two ends of the request.
    pub(super) fn start(self) -> (PendingCheck, Answer) {
        let request = Arc::new(self);
        let pending = PendingCheck {
            request: request.clone(),
            retries: 0,
            asking: false,
            alone: false,
            is_answered: false,
        };
        (pending, Answer(request))
    }

    fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for PendingCheck {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

impl PendingCheck {
    /// Whether the caller dropped the [`Answer`].
    pub(super) fn is_cancelled(&self) -> bool {
        Arc::strong_count(&self.request) == 1
    }

    /// Answers the caller. Returns whether the caller still waits.
    pub(super) fn answer(mut self, answer: CheckResult) -> bool {
        self.deliver(answer)
    }

    fn deliver(&mut self, answer: CheckResult) -> bool {
        self.is_answered = true;
        if self.is_cancelled() {
            return false;
        }
        let waker = {
            let mut delivery = self.request.delivery();
            delivery.answer = Some(answer);
            delivery.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Whether a reply at `reply_at` would miss the deadline. A check that has used less than half of
    /// its timeout is sent all the same: the server may answer faster than the last time.
    pub(super) fn would_time_out(&self, now: Instant, reply_at: Instant) -> bool {
        self.deadline <= now || self.deadline < reply_at && self.deadline < now + self.timeout / 2
    }

    /// Whether the two can be one batch item: equal checks with equal timeouts.
    pub(super) fn can_coalesce(&self, other: &Self) -> bool {
        let compared = |pending: &Self| {
            let (check, cost) = (pending.fingerprint.check, pending.check.borrow().cost);
            (check, cost, pending.timeout, pending.asking, pending.alone)
        };
        let are_checks = [self.operation, other.operation] == [Operation::Check; 2];
        are_checks && compared(self) == compared(other)
    }
}

impl Drop for PendingCheck {
    fn drop(&mut self) {
        if !self.is_answered {
            self.deliver(Err(unavailable(
                "the Tokio runtime that sent the check has shut down",
            )));
        }
    }
}

/// Answers all of these checks with the same error.
pub(super) fn fail_all(pending: impl IntoIterator<Item = PendingCheck>, error: &StoreError) {
    for check in pending {
        check.answer(Err(error.clone()));
    }
}

impl Future for Answer {
    type Output = CheckResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CheckResult> {
        let mut delivery = self.0.delivery();
        if let Some(answer) = delivery.answer.take() {
            return Poll::Ready(answer);
        }
        let new = context.waker();
        if !delivery
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(new))
        {
            let old = delivery.waker.replace(new.clone());
            // Dropping a waker runs code of the caller's runtime: not under the lock.
            drop(delivery);
            drop(old);
        }
        Poll::Pending
    }
}
