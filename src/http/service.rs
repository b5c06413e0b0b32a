use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::config::{Config, Judgement};
use super::future::ResponseFuture;
use crate::limiter::Checked;
use crate::store::Check;

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

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        let (mut parts, body) = request.into_parts();
        if config.is_exempt(&parts) {
            return ResponseFuture::calling(
                self.inner.call(Request::from_parts(parts, body)),
                None,
            );
        }
        let judged = match config.identify.identify(&parts) {
            Err(reason) => config.unidentified(&parts, &reason),
            Ok(identity) => {
                let own_limits = config.own_limits(&parts, &identity);
                let limits = own_limits.as_ref().unwrap_or(config.fixed.limits());
                let check = Check::new(&identity, limits)
                    .scope(&config.scope)
                    .cost(config.cost(&parts));
                match config.limiter.check(&check) {
                    Checked::Ready(decision) => config.judge(&decision, &mut parts),
                    Checked::Pending(decision) => {
                        // The service that was polled ready is the one to call; its clone is not
                        // ready.
                        let clone = self.inner.clone();
                        let inner = mem::replace(&mut self.inner, clone);
                        let request = (parts, body);
                        return ResponseFuture::deciding(decision, config.clone(), inner, request);
                    }
                }
            }
        };
        match judged {
            Judgement::Pass(announcement) => {
                let called = self.inner.call(Request::from_parts(parts, body));
                ResponseFuture::calling(called, Some(announcement))
            }
            Judgement::Reject(response) => ResponseFuture::answered(response),
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
