//! Those who wait for an answer, and how they get it.
//!
//! What is asked and the place for its answer are one piece of memory, which the [`Waiter`] in a queue
//! shares with the [`Answer`] that somebody awaits.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::refusal::unavailable;
use super::script::Operation;
use super::subject::Subject;
use crate::store::{OwnedCheck, StoreError, Verdict};

type Answered = Result<Verdict, StoreError>;

/// A check or a reset that waits for its answer.
pub(super) struct Waiter {
    wait: Arc<Wait>,
    /// How often the server said that it did not run it.
    pub(super) refusals: u32,
    /// Whether a node of the cluster is asked for keys that it is about to own.
    pub(super) asking: bool,
    /// Whether it shares no call with other checks: its slot is being moved, and the cluster refuses
    /// calls whose keys are at both nodes.
    pub(super) alone: bool,
    is_answered: bool,
}

/// An answer, to come.
pub(super) struct Answer(Arc<Wait>);

/// What is asked, and a place for the answer.
pub(super) struct Wait {
    pub(super) operation: Operation,
    pub(super) check: OwnedCheck,
    pub(super) subject: Subject,
    /// How long it waits in all, and until when.
    pub(super) patience: Duration,
    pub(super) until: Instant,
    /// Whether to try even a server that has just failed.
    pub(super) probes: bool,
    /// Which slot of the cluster the keys are in; 0 where there is no cluster.
    pub(super) slot: u16,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    answer: Option<Answered>,
    /// Whom to wake when it is there.
    waker: Option<Waker>,
}

impl Wait {
    pub(super) fn new(
        operation: Operation,
        check: OwnedCheck,
        subject: Subject,
        patience: Duration,
        until: Instant,
    ) -> Self {
        Self {
            operation,
            check,
            subject,
            patience,
            until,
            probes: false,
            slot: 0,
            place: Mutex::default(),
        }
    }

    /// The two ends of a wait.
    pub(super) fn begin(self) -> (Waiter, Answer) {
        let wait = Arc::new(self);
        let waiter = Waiter {
            wait: wait.clone(),
            refusals: 0,
            asking: false,
            alone: false,
            is_answered: false,
        };
        (waiter, Answer(wait))
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Waiter {
    type Target = Wait;

    fn deref(&self) -> &Wait {
        &self.wait
    }
}

impl Waiter {
    /// Whether nobody awaits the answer any more.
    pub(super) fn is_gone(&self) -> bool {
        Arc::strong_count(&self.wait) == 1
    }

    /// Answers. Says whether anybody was still there.
    pub(super) fn answer(mut self, answer: Answered) -> bool {
        self.give(answer)
    }

    fn give(&mut self, answer: Answered) -> bool {
        self.is_answered = true;
        if self.is_gone() {
            return false;
        }
        let waker = {
            let mut place = self.wait.place();
            place.answer = Some(answer);
            place.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Whether an answer that comes then would come too late. One that has just come is asked for
    /// all the same: the server may be faster than it was.
    pub(super) fn is_hopeless(&self, now: Instant, answered: Instant) -> bool {
        self.until <= now || self.until < answered && self.until < now + self.patience / 2
    }

    /// Whether the two can share an entry: they are alike, and so is their patience.
    pub(super) fn equals(&self, other: &Self) -> bool {
        let whole = |waiter: &Self| {
            let (check, cost) = (waiter.subject.check, waiter.check.borrow().cost);
            (check, cost, waiter.patience, waiter.asking, waiter.alone)
        };
        let checks = [self.operation, other.operation] == [Operation::Check; 2];
        checks && whole(self) == whole(other)
    }
}

/// Nobody is left waiting.
impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.is_answered {
            self.give(Err(unavailable(
                "the runtime that asked the server has ended",
            )));
        }
    }
}

impl Answer {
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Answered> {
        let mut place = self.0.place();
        if let Some(answer) = place.answer.take() {
            return Poll::Ready(answer);
        }
        let new = context.waker();
        if !place
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(new))
        {
            let old = place.waker.replace(new.clone());
            drop(place);
            drop(old);
        }
        Poll::Pending
    }
}

impl Future for Answer {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answered> {
        (*self).poll(context)
    }
}
