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
    handler: Arc<Handler>,
    inner: S,
    request: Option<(Parts, ReqBody)>,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn deciding(
        decision: PendingDecision,
        handler: Arc<Handler>,
        inner: S,
        request: (Parts, ReqBody),
    ) -> Self {
        Self {
            state: State::Deciding {
                deciding: Box::new(Deciding {
                    decision,
                    handler,
                    inner,
                    request: Some(request),
                }),
            },
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

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
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
                    let next = match deciding.handler.enforce(&decision, &mut parts) {
                        Action::Call(headers) => State::Calling {
                            response: deciding.inner.call(Request::from_parts(parts, body)),
                            headers,
                        },
                        Action::Reject(response) => State::Rejected {
                            response: Some(response),
                        },
                    };
                    state.set(next);
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
            State::Calling { .. } => "Calling",
            State::Rejected { .. } => "Rejected",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
