use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::ResponseBody;
use super::charged::ChargedCall;
use super::expose::Additions;
use super::handler::{Action, Admitted, Handler, Pending};
use super::rejection_body::{BoxError, RejectionBody};
use super::waiting::Wait;

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
            additions: Additions,
        },
        CallingCharged {
            #[pin]
            response: F,
            charged: Option<Charged>,
        },
        Rejected {
            response: Option<Response<RejectionBody>>,
        },
    }
}

/// A request with a permit, and the handler that settles its charge.
pub(super) struct Charged {
    pub(super) call: Box<ChargedCall>,
    pub(super) handler: Arc<Handler>,
}

/// A request that waits for its decision, and the ready service to call.
struct Deciding<S, ReqBody> {
    pending: Pending,
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
        pending: Pending,
        handler: Arc<Handler>,
        inner: S,
        request: (Parts, ReqBody),
    ) -> Self {
        Self {
            state: State::Deciding {
                deciding: Box::new(Deciding {
                    pending,
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

    pub(super) fn calling(response: S::Future, additions: Additions) -> Self {
        Self {
            state: State::Calling {
                response,
                additions,
            },
        }
    }

    pub(super) fn calling_charged(response: S::Future, charged: Charged) -> Self {
        let charged = Some(charged);
        Self {
            state: State::CallingCharged { response, charged },
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
    ResBody: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Deciding { deciding } => {
                    let pending = ready!(deciding.pending.poll(cx));
                    let request = deciding.request.take();
                    let (mut parts, body) = request.expect("a request is taken once");
                    let action = deciding.handler.enforce_pending(pending, &mut parts);
                    let next = match action {
                        Action::Call(additions) => State::Calling {
                            response: deciding.inner.call(Request::from_parts(parts, body)),
                            additions,
                        },
                        Action::Reject(response) => State::Rejected {
                            response: Some(response),
                        },
                        Action::CallCharged(call) => State::CallingCharged {
                            response: deciding.inner.call(Request::from_parts(parts, body)),
                            charged: Some(Charged {
                                call,
                                handler: deciding.handler.clone(),
                            }),
                        },
                        // The ready service is dropped with the state.
                        Action::Wait(wait) => {
                            let (handler, inner) =
                                (deciding.handler.clone(), deciding.inner.clone());
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
                    ready!(wait.poll(cx));
                    ready!(inner.poll_ready(cx))?;
                    let (mut parts, body) = request.take().expect("a request is taken once");
                    let action = handler.admit_after(wait, &mut parts);
                    let response = inner.call(Request::from_parts(parts, body));
                    let next = match action {
                        Admitted::Plain(additions) => State::Calling {
                            response,
                            additions,
                        },
                        Admitted::Charged(call) => State::CallingCharged {
                            response,
                            charged: Some(Charged {
                                call,
                                handler: handler.clone(),
                            }),
                        },
                    };
                    state.set(next);
                }
                StateProjection::Calling {
                    response,
                    additions,
                } => {
                    let mut response = ready!(response.poll(cx))?;
                    mem::take(additions).add_to(&mut response);
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProjection::CallingCharged { response, charged } => {
                    let response = ready!(response.poll(cx))?;
                    let Charged { call, handler } =
                        charged.take().expect("polled after completion");
                    return Poll::Ready(Ok(handler.finish(*call, response)));
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
            State::Calling { .. } | State::CallingCharged { .. } => "Calling",
            State::Rejected { .. } => "Rejected",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
