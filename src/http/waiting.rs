//! Requests that wait in a queue, of which a layer has a bounded number.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::charged::ChargedCall;
use crate::identity::Identity;
use crate::limiter::Decision;

/// The number of waiting requests.
#[derive(Default)]
pub(super) struct Waiters(Arc<AtomicUsize>);

/// Counts as a waiting request until it is dropped.
pub(super) struct Waiter(Arc<AtomicUsize>);

/// An admitted request that waits for its place in a queue.
pub(super) struct Wait {
    decision: Decision<'static>,
    identity: Option<Identity>,
    end: Instant,
    /// Created by the first poll, which may happen in another runtime than the decision. Boxed, since a
    /// `Sleep` must be pinned.
    sleep: Option<Pin<Box<Sleep>>>,
    _waiter: Waiter,
    /// The permit of the request, if it has one.
    charged: Option<Box<ChargedCall>>,
}

impl Waiters {
    /// Adds a request that may have to wait. Returns `None` if there are `most` already.
    pub(super) fn enter(&self, most: usize) -> Option<Waiter> {
        let add = |waiting| (waiting < most).then_some(waiting + 1);
        let order = Ordering::Relaxed;
        let entered = self.0.fetch_update(order, order, add);
        entered.is_ok().then(|| Waiter(self.0.clone()))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Wait {
    /// Starts the wait of a request that was admitted just now. The numbers of `decision` are as of the end of
    /// the wait.
    pub(super) fn new(
        decision: Decision<'static>,
        identity: Option<Identity>,
        waiter: Waiter,
    ) -> Self {
        Self {
            end: Instant::now() + decision.delay(),
            decision,
            identity,
            sleep: None,
            _waiter: waiter,
            charged: None,
        }
    }

    /// Keeps a permit.
    pub(super) fn charged(mut self, call: ChargedCall) -> Self {
        self.charged = Some(Box::new(call));
        self
    }

    pub(super) fn take_charged(&mut self) -> Option<Box<ChargedCall>> {
        self.charged.take()
    }

    /// Returns the decision with its numbers as of the end of the wait, and the identity if it was given.
    pub(super) fn decision(&self) -> (&Decision<'static>, Option<&Identity>) {
        (&self.decision, self.identity.as_ref())
    }

    /// Waits until the request may proceed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.end;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
        sleep.as_mut().poll(cx)
    }
}
