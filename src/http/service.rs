use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::config::{Config, Question};
use super::future::ResponseFuture;
use super::header::Announcement;
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

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = &self.config;
        let question = match config.plain_question(request.headers(), request.extensions()) {
            Some(question) => question,
            None => {
                let (parts, body) = request.into_parts();
                let question = config.question(&parts);
                request = Request::from_parts(parts, body);
                question
            }
        };
        let announcement = match question {
            Question::Exempt => None,
            Question::Unidentified(reason) => {
                if let Some(response) = config.unidentified(request.headers(), &reason) {
                    return ResponseFuture::answered(response);
                }
                Some(Announcement::undecided())
            }
            Question::Asked {
                identity,
                own_limits,
                cost,
            } => {
                let limits = own_limits.as_ref().unwrap_or(config.fixed.limits());
                let check = Check::new(&identity, limits)
                    .scope(&config.scope)
                    .cost(cost);
                let decision = match config.limiter.check(&check) {
                    Checked::Ready(decision) => decision,
                    Checked::Pending(decision) => {
                        // The service that was polled ready is the one to call; its clone is not
                        // ready.
                        let clone = self.inner.clone();
                        let inner = mem::replace(&mut self.inner, clone);
                        return ResponseFuture::deciding(decision, config.clone(), inner, request);
                    }
                };
                if !config.lets_pass(&decision) {
                    return ResponseFuture::answered(config.reject(&decision, request));
                }
                Some(config.announce(&decision, request.extensions_mut()))
            }
        };
        ResponseFuture::calling(self.inner.call(request), announcement)
    }
}

impl<S: fmt::Debug> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
