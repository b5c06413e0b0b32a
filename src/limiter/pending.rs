use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::limiter::{Asked, Limiter};
use crate::decision::Decision;
use crate::store::{BoxFuture, Check, StoreError, StoreErrorKind, Verdict};

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
#[must_use = "futures do nothing unless awaited"]
pub struct PendingDecision(BoxFuture<Decision<'static>>);

impl PendingDecision {
    pub(super) fn new(
        limiter: Limiter,
        check: &Check<'_>,
        asked: Asked,
        answer: BoxFuture<Result<Verdict, StoreError>>,
    ) -> Self {
        let began = Instant::now();
        let check = check.into_owned();
        Self(Box::pin(async move {
            let left = check.borrow().time_left.saturating_sub(began.elapsed());
            let result = within(left, answer).await;
            limiter.shared.meter.waited(began.elapsed());
            limiter
                .conclude(&check.borrow(), &asked, &result)
                .into_owned()
        }))
    }
}

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
