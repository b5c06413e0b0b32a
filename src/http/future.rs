use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::{RejectionBody, ResponseBody};
use super::config::Config;
use super::header::Announcement;
use crate::limiter::PendingDecision;

pin_project! {
    /// The response of a [`RateLimit`](crate::RateLimit), to come.
    ///
    /// # Panics
    ///
    /// When polled after it is done.
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
        // Boxed, so that the future of a request that is decided on the spot is small.
        Deciding {
            deciding: Box<Deciding<S, ReqBody>>,
        },
        Calling {
            #[pin]
            called: F,
            announcement: Option<Announcement>,
        },
        Answered {
            response: Option<Response<RejectionBody>>,
        },
    }
}

/// A request that waits for its decision, and the service that is ready for it.
struct Deciding<S, ReqBody> {
    decision: PendingDecision,
    config: Arc<Config>,
    inner: S,
    request: Option<Request<ReqBody>>,
}

impl<S, ReqBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
{
    pub(super) fn deciding(
        decision: PendingDecision,
        config: Arc<Config>,
        inner: S,
        request: Request<ReqBody>,
    ) -> Self {
        Self {
            state: State::Deciding {
                deciding: Box::new(Deciding {
                    decision,
                    config,
                    inner,
                    request: Some(request),
                }),
            },
        }
    }

    pub(super) fn calling(called: S::Future, announcement: Option<Announcement>) -> Self {
        Self {
            state: State::Calling {
                called,
                announcement,
            },
        }
    }

    pub(super) fn answered(response: Response<RejectionBody>) -> Self {
        Self {
            state: State::Answered {
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
                    let mut request = request.expect("a request is decided once");
                    let config = &deciding.config;
                    let next = if config.lets_pass(&decision) {
                        let announcement = config.announce(&decision, request.extensions_mut());
                        State::Calling {
                            called: deciding.inner.call(request),
                            announcement: Some(announcement),
                        }
                    } else {
                        State::Answered {
                            response: Some(config.reject(&decision, request)),
                        }
                    };
                    state.set(next);
                }
                StateProjection::Calling {
                    called,
                    announcement,
                } => {
                    let mut response = ready!(called.poll(cx))?;
                    if let Some(announcement) = announcement {
                        announcement.add_to(&mut response);
                    }
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProjection::Answered { response } => {
                    let response = response.take().expect("polled after it was done");
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
            State::Answered { .. } => "Answered",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
