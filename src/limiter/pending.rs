use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::any_store::Waiting;
use super::limiter::{Asked, Limiter};
use crate::deadlines::Deadline;
use crate::decision::Decision;
use crate::store::{StoreError, StoreErrorKind};

/// A limiter's answer: there already, or pending. `.await` gives the decision in either case.
#[derive(Debug)]
#[must_use = "a check that is not awaited may never be made, or charged unseen"]
pub enum Checked<'a> {
    /// Decided on the spot.
    Ready(Decision<'a>),
    /// To be awaited, for at most the limiter's deadline.
    Pending(PendingDecision),
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
/// When polled after it is done.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct CheckedFuture<'a>(Option<Checked<'a>>);

impl<'a> Future for CheckedFuture<'a> {
    type Output = Decision<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decision<'a>> {
        match self.0.take().expect("polled after it was done") {
            Checked::Ready(decision) => Poll::Ready(decision),
            Checked::Pending(mut pending) => {
                let decision = Pin::new(&mut pending).poll(cx);
                self.0 = decision.is_pending().then_some(Checked::Pending(pending));
                decision
            }
        }
    }
}

/// A store's answer, if it comes in time.
pub(super) async fn within<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let timed_out = |_| Err(StoreErrorKind::TimedOut.into());
    timeout(deadline, answer).await.unwrap_or_else(timed_out)
}

/// A decision that waits for the store, for at most the limiter's deadline.
///
/// Dropping it gives the decision up; the store may still charge the check.
///
/// # Panics
///
/// When polled after it is done.
#[must_use = "futures do nothing unless awaited"]
pub struct PendingDecision(Box<Pending>);

struct Pending {
    limiter: Limiter,
    asked: Asked,
    /// None once it is decided: nobody is to be charged for an answer that is waited for no more.
    waiting: Option<Waiting>,
    began: Instant,
    patience: Duration,
    /// None before it is waited for.
    deadline: Option<Deadline>,
}

impl PendingDecision {
    pub(super) fn new(
        limiter: Limiter,
        asked: Asked,
        waiting: Waiting,
        patience: Duration,
    ) -> Self {
        Self(Box::new(Pending {
            limiter,
            began: asked.began().unwrap_or_else(Instant::now),
            asked,
            waiting: Some(waiting),
            patience,
            deadline: None,
        }))
    }
}

impl Future for PendingDecision {
    type Output = Decision<'static>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decision<'static>> {
        let Pending {
            limiter,
            asked,
            waiting,
            began,
            patience,
            deadline,
        } = &mut *self.0;
        let waited_for = waiting.as_mut().expect("polled after it was done");
        let result = match waited_for.poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                // What no clock will ever show is no deadline.
                let Some(end) = began.checked_add(*patience) else {
                    return Poll::Pending;
                };
                ready!(limiter.shared.deadlines.poll(deadline, end, cx));
                Err(StoreErrorKind::TimedOut.into())
            }
        };
        limiter.shared.meter.waited(began.elapsed());
        let decision = limiter.conclude(&waited_for.check(), asked, &result);
        let decision = decision.into_owned();
        (*waiting, *deadline) = (None, None);
        Poll::Ready(decision)
    }
}

impl fmt::Debug for PendingDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingDecision").finish_non_exhaustive()
    }
}
