use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::future::ResponseFuture;
use super::handler::{Action, Handler};
use super::rejection::RequestHead;

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
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let handler = &self.handler;
        let action = match handler.identify_by_head(request.headers(), request.extensions()) {
            Some(Ok(identity)) => {
                let mut extensions = mem::take(request.extensions_mut());
                let head = RequestHead::of_request(&request);
                let action = handler.decide(&identity, None, 1, head, &mut extensions);
                *request.extensions_mut() = extensions;
                action
            }
            Some(Err(reason)) => handler.unidentified(RequestHead::of_request(&request), &reason),
            None => {
                let (mut parts, body) = request.into_parts();
                let action = handler.decide_by_parts(&mut parts);
                request = Request::from_parts(parts, body);
                action
            }
        };
        match action {
            Action::Call(headers) => ResponseFuture::calling(self.inner.call(request), headers),
            Action::Respond(response) => ResponseFuture::rejected(response),
            Action::Reject(decision) => {
                ResponseFuture::rejected(handler.reject(&decision, request))
            }
            Action::Wait(decision) => {
                // Call the service that was polled ready. Its clone is not ready.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                ResponseFuture::deciding(decision, handler.clone(), inner, request)
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
