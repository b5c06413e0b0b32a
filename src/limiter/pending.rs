use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use super::limiter::{Asked, Limiter};
use crate::decision::Decision;
use crate::store::{BoxFuture, Check, OwnedCheck, StoreError, StoreErrorKind, Verdict};

/// A limiter's answer: there already, or pending. `.await` gives the decision in either case.
#[derive(Debug)]
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
        let state = match self {
            Self::Ready(decision) => State::Ready {
                decision: Some(decision),
            },
            Self::Pending(pending) => State::Pending { pending },
        };
        CheckedFuture { state }
    }
}

pin_project! {
    /// The future of a [`Checked`].
    ///
    /// # Panics
    ///
    /// When polled after it is done.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct CheckedFuture<'a> {
        #[pin]
        state: State<'a>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProjection]
    enum State<'a> {
        Ready { decision: Option<Decision<'a>> },
        Pending { #[pin] pending: PendingDecision },
    }
}

impl<'a> Future for CheckedFuture<'a> {
    type Output = Decision<'a>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decision<'a>> {
        match self.project().state.project() {
            StateProjection::Ready { decision } => {
                Poll::Ready(decision.take().expect("polled after it was done"))
            }
            StateProjection::Pending { pending } => pending.poll(cx),
        }
    }
}

pin_project! {
    /// A decision that waits for the store, for at most the limiter's deadline.
    ///
    /// Dropping it gives the decision up; the store may still charge the check.
    #[must_use = "futures do nothing unless awaited"]
    pub struct PendingDecision {
        limiter: Limiter,
        check: OwnedCheck,
        asked: Asked,
        began: Instant,
        answer: BoxFuture<Result<Verdict, StoreError>>,
        // Made when the answer is first found wanting: by then there is a runtime.
        #[pin]
        deadline: Option<Sleep>,
    }
}

impl PendingDecision {
    pub(super) fn new(
        limiter: Limiter,
        check: &Check<'_>,
        asked: Asked,
        answer: BoxFuture<Result<Verdict, StoreError>>,
    ) -> Self {
        let began = Instant::now();
        Self {
            limiter,
            check: OwnedCheck::new(check),
            asked,
            began,
            answer,
            deadline: None,
        }
    }
}

impl Future for PendingDecision {
    type Output = Decision<'static>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decision<'static>> {
        let mut this = self.project();
        let result = match this.answer.as_mut().poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                if this.deadline.is_none() {
                    let left = this
                        .limiter
                        .shared
                        .deadline
                        .saturating_sub(this.began.elapsed());
                    this.deadline.set(Some(sleep(left)));
                }
                let deadline = this
                    .deadline
                    .as_mut()
                    .as_pin_mut()
                    .expect("it was just set");
                ready!(deadline.poll(cx));
                Err(StoreErrorKind::TimedOut.into())
            }
        };
        this.limiter.shared.meter.waited(this.began.elapsed());
        let decision = this
            .limiter
            .conclude(&this.check.borrow(), this.asked, result);
        Poll::Ready(decision.into_owned())
    }
}

impl fmt::Debug for PendingDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingDecision")
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}
