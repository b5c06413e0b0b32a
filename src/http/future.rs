use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::{RejectionBody, ResponseBody};
use super::handler::{Action, Handler};
use super::rate_limit_headers::RateLimitHeaders;
use super::waiting::{Wait, Waiter};
use crate::limiter::PendingDecision;

pin_project! {
    /// The response future of [`RateLimit`](crate::RateLimit).
    ///
    /// # Panics
    ///
    /// If it is polled again after it returned the response.
    #[must_use = "futures do nothing unless awaited"]
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S, ReqBody, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, ReqBody, F> {
        // Boxed, so that the future is small if the limiter decides at once.
        Deciding {
            deciding: Box<Deciding<S, ReqBody>>,
        },
        Waiting {
            waiting: Box<Waiting<S, ReqBody>>,
        },
        Calling {
            #[pin]
            response: F,
            headers: Option<RateLimitHeaders>,
        },
        Rejected {
            response: Option<Response<RejectionBody>>,
        },
    }
}

/// A request that waits for its decision, and the ready service to call.
struct Deciding<S, ReqBody> {
    decision: PendingDecision,
    waiter: Option<Waiter>,
    handler: Arc<Handler>,
    inner: S,
    request: Option<(Parts, ReqBody)>,
}

/// A request that waits in a queue, and a service that is polled ready after the wait: a ready service
/// would hold a permit, for instance of a `ConcurrencyLimit`, which other requests can use meanwhile.
struct Waiting<S, ReqBody> {
    wait: Box<Wait>,
    handler: Arc<Handler>,
    inner: S,
    request: Option<(Parts, ReqBody)>,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn deciding(
        (decision, waiter): (PendingDecision, Option<Waiter>),
        handler: Arc<Handler>,
        inner: S,
        request: (Parts, ReqBody),
    ) -> Self {
        Self {
            state: State::Deciding {
                deciding: Box::new(Deciding {
                    decision,
                    waiter,
                    handler,
                    inner,
                    request: Some(request),
                }),
            },
        }
    }

    pub(super) fn waiting(
        wait: Box<Wait>,
        handler: Arc<Handler>,
        inner: S,
        request: (Parts, ReqBody),
    ) -> Self {
        Self {
            state: State::waiting(wait, handler, inner, request),
        }
    }

    pub(super) fn calling(response: S::Future, headers: Option<RateLimitHeaders>) -> Self {
        Self {
            state: State::Calling { response, headers },
        }
    }

    pub(super) fn rejected(response: Response<RejectionBody>) -> Self {
        Self {
            state: State::Rejected {
                response: Some(response),
            },
        }
    }
}

impl<S, ReqBody, F> State<S, ReqBody, F> {
    fn waiting(
        wait: Box<Wait>,
        handler: Arc<Handler>,
        inner: S,
        request: (Parts, ReqBody),
    ) -> Self {
        Self::Waiting {
            waiting: Box::new(Waiting {
                wait,
                handler,
                inner,
                request: Some(request),
            }),
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Deciding { deciding } => {
                    let decision = ready!(Pin::new(&mut deciding.decision).poll(cx));
                    let request = deciding.request.take();
                    let (mut parts, body) = request.expect("a request is taken once");
                    let (handler, waiter) = (&deciding.handler, deciding.waiter.take());
                    let next = match handler.enforce(&decision, waiter, &mut parts) {
                        Action::Call(headers) => State::Calling {
                            response: deciding.inner.call(Request::from_parts(parts, body)),
                            headers,
                        },
                        Action::Reject(response) => State::Rejected {
                            response: Some(response),
                        },
                        // The ready service is dropped with the state.
                        Action::Wait(wait) => {
                            let (handler, inner) = (handler.clone(), deciding.inner.clone());
                            State::waiting(wait, handler, inner, (parts, body))
                        }
                    };
                    state.set(next);
                }
                StateProjection::Waiting { waiting } => {
                    let Waiting {
                        wait,
                        handler,
                        inner,
                        request,
                    } = &mut **waiting;
                    let decision = ready!(wait.poll(cx));
                    ready!(inner.poll_ready(cx))?;
                    let (mut parts, body) = request.take().expect("a request is taken once");
                    let headers = handler.admit(decision, &mut parts);
                    let response = inner.call(Request::from_parts(parts, body));
                    state.set(State::Calling { response, headers });
                }
                StateProjection::Calling { response, headers } => {
                    let mut response = ready!(response.poll(cx))?;
                    if let Some(headers) = headers.take() {
                        headers.add_to(&mut response);
                    }
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProjection::Rejected { response } => {
                    let response = response.take().expect("polled after completion");
                    return Poll::Ready(Ok(response.map(ResponseBody::rejection)));
                }
            }
        }
    }
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Deciding { .. } => "Deciding",
            State::Waiting { .. } => "Waiting",
            State::Calling { .. } => "Calling",
            State::Rejected { .. } => "Rejected",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
