use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::config::{Config, Next};
use super::future::ResponseFuture;
use super::rejection::Head;

/// A service behind a rate limit, as [`RateLimitLayer`](crate::RateLimitLayer) makes it.
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
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
        let config = &self.config;
        let next = match config.identify_by_head(request.headers(), request.extensions()) {
            Some(Ok(identity)) => {
                let mut extensions = mem::take(request.extensions_mut());
                let head = Head::of_request(&request);
                let next = config.ask(&identity, None, 1, head, &mut extensions);
                *request.extensions_mut() = extensions;
                next
            }
            Some(Err(reason)) => config.unidentified(Head::of_request(&request), &reason),
            None => {
                let (mut parts, body) = request.into_parts();
                let next = config.next_by_parts(&mut parts);
                request = Request::from_parts(parts, body);
                next
            }
        };
        match next {
            Next::Call(announcement) => {
                ResponseFuture::calling(self.inner.call(request), announcement)
            }
            Next::Answer(response) => ResponseFuture::answered(response),
            Next::Reject(decision) => ResponseFuture::answered(config.reject(&decision, request)),
            Next::Await(decision) => {
                // The service that was polled ready is the one to call; its clone is not ready.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                ResponseFuture::deciding(decision, config.clone(), inner, request)
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
