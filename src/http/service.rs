use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::future::{Charged, ResponseFuture};
use super::handler::{Action, Handled, Handler};
use super::rejection_body::BoxError;

/// A service with a rate limit, created by a [`RateLimitLayer`](crate::RateLimitLayer).
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    handler: Arc<Handler>,
}

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, handler: Arc<Handler>) -> Self {
        Self { inner, handler }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RateLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        match self.handler.decide(&mut parts) {
            Handled::Ready(Action::Call(additions)) => {
                let request = Request::from_parts(parts, body);
                ResponseFuture::calling(self.inner.call(request), additions)
            }
            Handled::Ready(Action::CallCharged(call)) => {
                let request = Request::from_parts(parts, body);
                let handler = self.handler.clone();
                let charged = Charged { call, handler };
                ResponseFuture::calling_charged(self.inner.call(request), charged)
            }
            Handled::Ready(Action::Reject(response)) => ResponseFuture::rejected(response),
            Handled::Ready(Action::Wait(wait)) => {
                // Drop the ready service, so that a waiting request holds no permit of it.
                self.inner = self.inner.clone();
                let (handler, inner) = (self.handler.clone(), self.inner.clone());
                ResponseFuture::waiting(wait, handler, inner, (parts, body))
            }
            Handled::Pending(pending) => {
                // Call the service that was polled ready. Its clone is not ready.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let (handler, request) = (self.handler.clone(), (parts, body));
                ResponseFuture::deciding(pending, handler, inner, request)
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
