//! The `X-RateLimit` headers of an answer.

use axum::http::{HeaderMap, HeaderValue};
use tollgate::header::{
    X_RATELIMIT_DEGRADED, X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET,
};

use crate::decide::Answer;

pub(super) fn headers(answer: &Answer) -> HeaderMap {
    let reset = answer.reset_after;
    let seconds = reset.as_secs() + u64::from(reset.subsec_nanos() > 0);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(X_RATELIMIT_LIMIT, answer.limit.into());
    headers.insert(X_RATELIMIT_REMAINING, answer.remaining.into());
    headers.insert(X_RATELIMIT_RESET, seconds.into());
    if answer.degraded {
        headers.insert(X_RATELIMIT_DEGRADED, HeaderValue::from_static("true"));
    }
    headers
}
