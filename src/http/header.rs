//! The headers that responses carry.
//!
//! Responses to allowed and denied requests alike say what the binding policy has left:
//!
//! | header | value |
//! |---|---|
//! | `X-RateLimit-Limit` | the quota's [capacity](crate::Quota::capacity): a token bucket's burst, a window's limit |
//! | `X-RateLimit-Remaining` | how much of the capacity is left |
//! | `X-RateLimit-Reset` | whole seconds until the whole capacity is back, rounded up; or a Unix time |
//! | `X-RateLimit-Degraded` | `true` where the store was away and a failure strategy decided |
//! | `X-RateLimit-Shadow` | `true` where a layer in shadow mode would have denied |
//! | `Retry-After` | on denials: whole seconds, rounded up, at least 1; absent if no wait helps |
//!
//! With [`ResponseHeaders::and_ietf`], also `RateLimit-Policy` and `RateLimit` as in
//! draft-ietf-httpapi-ratelimit-headers-11. The `t` of `RateLimit` is the reset, and on a denial the
//! value of `Retry-After`: section 6 of the draft asks that the two agree.
//!
//! # Clients
//!
//! `X-RateLimit-Limit` is not the rate: a client that is told `100/1m burst 20` reads 20. A client that
//! paces itself should wait for `Retry-After`, or spread `Remaining` over `Reset` seconds. `Reset` is in
//! seconds from now, as in the IETF draft; clients written for GitHub's API expect a Unix time
//! ([`reset_as_unix_time`](ResponseHeaders::reset_as_unix_time)). Parsers of the IETF fields must accept
//! structured fields (RFC 9651): `RateLimit: "default";r=9;t=1`.
//!
//! # Shared caches
//!
//! The numbers are one client's. A cache that stores an allowed response hands them to other clients
//! with it, and a response from a cache is not counted. Put the limit in front of the cache, or mark
//! limited responses `Cache-Control: private`. Rejections say `no-store`.
//!
//! # Browsers
//!
//! Behind CORS a browser shows scripts only the headers that the server exposes; [`exposed`] lists
//! them:
//!
//! ```
//! # mod cors { pub fn expose_headers<I: Into<Vec<http::HeaderName>>>(_: I) {} }
//! // tower_http::cors::CorsLayer::new().expose_headers(tollgate::header::exposed())
//! cors::expose_headers(tollgate::header::exposed());
//! ```

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::fixed::{Fixed, header_value};
use super::number::{lasting, number};
use super::prepared::Prepared;
use crate::decision::Decision;

/// The capacity of the binding policy: how much may be spent at once.
pub const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
/// How much of it is left.
pub const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
/// When all of it is back.
pub const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Present where the store was away.
pub const X_RATELIMIT_DEGRADED: HeaderName = HeaderName::from_static("x-ratelimit-degraded");
/// Present where a layer in shadow mode would have denied.
pub const X_RATELIMIT_SHADOW: HeaderName = HeaderName::from_static("x-ratelimit-shadow");
/// The policies, as the IETF draft has it.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What the binding policy has left, as the IETF draft has it.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Milliseconds to wait before a gRPC call is tried again; negative if no wait helps (gRFC A6).
pub const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Returns the names of all headers that a layer may add and that a script or a gRPC-Web client may
/// want to read, for `Access-Control-Expose-Headers`.
pub fn exposed() -> Vec<HeaderName> {
    vec![
        RETRY_AFTER,
        X_RATELIMIT_LIMIT,
        X_RATELIMIT_REMAINING,
        X_RATELIMIT_RESET,
        X_RATELIMIT_DEGRADED,
        X_RATELIMIT_SHADOW,
        RATELIMIT_POLICY,
        RATELIMIT,
        GRPC_STATUS,
        GRPC_MESSAGE,
        GRPC_RETRY_PUSHBACK_MS,
    ]
}

/// Those that speak of one layer's decision.
const NUMBERS: [HeaderName; 5] = [
    X_RATELIMIT_LIMIT,
    X_RATELIMIT_REMAINING,
    X_RATELIMIT_RESET,
    RATELIMIT_POLICY,
    RATELIMIT,
];

/// Those of them that are usual.
pub(super) const X_RATE_LIMIT: [HeaderName; 3] =
    [X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET];

/// Which headers a layer adds to responses.
///
/// ```
/// use tollgate::{LocalStore, Quota, RateLimitLayer, ResponseHeaders};
///
/// RateLimitLayer::new(Quota::per_second(5), LocalStore::new())
///     .headers(ResponseHeaders::x_rate_limit().and_ietf());
/// ```
///
/// `Retry-After`, `X-RateLimit-Degraded` and `X-RateLimit-Shadow` are added whatever is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeaders {
    x_rate_limit: bool,
    ietf: bool,
    unix_time: bool,
}

impl ResponseHeaders {
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`: the default.
    pub const fn x_rate_limit() -> Self {
        Self {
            x_rate_limit: true,
            ..Self::none()
        }
    }

    /// `RateLimit-Policy` and `RateLimit`, as in draft-ietf-httpapi-ratelimit-headers-11.
    pub const fn ietf() -> Self {
        Self {
            ietf: true,
            ..Self::none()
        }
    }

    /// None.
    pub const fn none() -> Self {
        Self {
            x_rate_limit: false,
            ietf: false,
            unix_time: false,
        }
    }

    /// Also the headers of [`ietf`](ResponseHeaders::ietf).
    #[must_use]
    pub const fn and_ietf(self) -> Self {
        Self { ietf: true, ..self }
    }

    /// `X-RateLimit-Reset` as a Unix time in seconds, as GitHub has it, instead of seconds from
    /// now.
    #[must_use]
    pub const fn reset_as_unix_time(self) -> Self {
        Self {
            unix_time: true,
            ..self
        }
    }
}

impl Default for ResponseHeaders {
    fn default() -> Self {
        Self::x_rate_limit()
    }
}

/// What a response will say of a decision, once there is a response.
#[derive(Debug)]
pub(super) struct Announcement {
    limit: u32,
    remaining: u32,
    reset: u64,
    x_rate_limit: bool,
    degraded: bool,
    shadow: Option<Shadow>,
    ietf: Option<Box<Ietf>>,
}

/// The layer only watches.
#[derive(Debug)]
struct Shadow {
    would_have_denied: bool,
}

/// A response extension: the numbers in the headers bind nobody.
#[derive(Clone)]
struct NumbersOfShadow;

#[derive(Debug)]
struct Ietf {
    policies: HeaderValue,
    limit: HeaderValue,
}

impl Announcement {
    #[inline]
    pub(super) fn new(
        decision: &Decision<'_>,
        headers: ResponseHeaders,
        fixed: &Fixed,
        shadow: bool,
    ) -> Self {
        let mut reset = decision.reset_after();
        if headers.x_rate_limit && headers.unix_time {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            reset = now.unwrap_or_default().saturating_add(reset);
        }
        let would_have_denied = !decision.is_allowed();
        Self {
            limit: decision.capacity(),
            remaining: decision.remaining(),
            reset: seconds(reset),
            x_rate_limit: headers.x_rate_limit,
            degraded: decision.is_degraded(),
            shadow: shadow.then_some(Shadow { would_have_denied }),
            ietf: headers.ietf.then(|| Box::new(Ietf::new(decision, fixed))),
        }
    }

    /// Of a request that a layer in shadow mode would have turned away before there was anything
    /// to decide.
    pub(super) fn undecided() -> Self {
        Self {
            limit: 0,
            remaining: 0,
            reset: 0,
            x_rate_limit: false,
            degraded: false,
            shadow: Some(Shadow {
                would_have_denied: true,
            }),
            ietf: None,
        }
    }

    /// Adds the headers to a response that the inner service made. Where a layer within has
    /// announced something more restrictive already, that stays; but a layer that only watches
    /// gives way to one that does not. To be called once, as all that writes.
    pub(super) fn add_to<B>(&mut self, response: &mut Response<B>) {
        let theirs_bind = response
            .extensions_mut()
            .remove::<NumbersOfShadow>()
            .is_none();
        let yields = match announced(response.headers()) {
            None => false,
            Some(_) if self.shadow.is_some() => true,
            Some(theirs) => theirs_bind && (is_denied(response) || theirs <= self.remaining),
        };
        let numbers_of_shadow = if yields {
            !theirs_bind
        } else {
            self.shadow.is_some()
        };
        if numbers_of_shadow {
            response.extensions_mut().insert(NumbersOfShadow);
        }
        if yields {
            self.flag(response.headers_mut());
        } else {
            self.write_to(response.headers_mut());
        }
    }

    /// Writes the headers over those that are there.
    pub(super) fn write_to(&mut self, headers: &mut HeaderMap) {
        static NAMES: LazyLock<Prepared> =
            LazyLock::new(|| Prepared::new(X_RATE_LIMIT.map(|name| (name, None))));

        // Not one layer's in one form and another's in the other.
        if (self.x_rate_limit || self.ietf.is_some()) && has_numbers(headers) {
            for name in NUMBERS {
                headers.remove(name);
            }
        }
        if self.x_rate_limit {
            let (limit, remaining) = (self.limit.into(), self.remaining.into());
            if headers.is_empty() {
                *headers = NAMES.with([limit, remaining, self.reset]);
            } else {
                headers.insert(X_RATELIMIT_LIMIT, lasting(limit));
                headers.insert(X_RATELIMIT_REMAINING, number(remaining));
                headers.insert(X_RATELIMIT_RESET, lasting(self.reset));
            }
        }
        self.flag(headers);
        if let Some(ietf) = self.ietf.take() {
            headers.insert(RATELIMIT_POLICY, ietf.policies);
            headers.insert(RATELIMIT, ietf.limit);
        }
    }

    fn flag(&self, headers: &mut HeaderMap) {
        const TRUE: HeaderValue = HeaderValue::from_static("true");
        if self.degraded {
            headers.insert(X_RATELIMIT_DEGRADED, TRUE);
        }
        if self
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.would_have_denied)
        {
            headers.insert(X_RATELIMIT_SHADOW, TRUE);
        }
    }
}

/// Whether a layer further in turned the request away.
fn is_denied<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    response.status() == StatusCode::TOO_MANY_REQUESTS
        || headers.contains_key(RETRY_AFTER)
        || headers.contains_key(GRPC_RETRY_PUSHBACK_MS)
}

/// Whether any of [`NUMBERS`] is there. To look at how each name begins is faster than to look up five
/// names: responses have few headers.
fn has_numbers(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str().as_bytes();
        name.starts_with(b"x-ratelimit-") || name.starts_with(b"ratelimit")
    })
}

/// What is left according to the headers of a layer further in.
fn announced(headers: &HeaderMap) -> Option<u32> {
    if !has_numbers(headers) {
        return None;
    }
    if let Some(remaining) = headers.get(X_RATELIMIT_REMAINING) {
        return remaining.to_str().ok()?.parse().ok();
    }
    let limit = headers.get(RATELIMIT)?.to_str().ok()?;
    limit
        .split(';')
        .find_map(|parameter| parameter.strip_prefix("r="))?
        .parse()
        .ok()
}

impl Ietf {
    fn new(decision: &Decision<'_>, fixed: &Fixed) -> Self {
        let (name, remaining) = (decision.policy().name(), decision.remaining());
        // On a denial `t` is `Retry-After`, which must not be earlier than the end of `t` (section 6).
        let denied = !decision.is_allowed();
        let wait = denied.then(|| retry_after(decision)).flatten();
        let time = wait.unwrap_or_else(|| seconds(decision.reset_after()));
        Self {
            policies: fixed.ietf(decision),
            limit: header_value(format!("\"{name}\";r={remaining};t={time}")),
        }
    }
}

/// The value of `Retry-After`; `None` if no wait helps.
pub(super) fn retry_after(decision: &Decision<'_>) -> Option<u64> {
    let wait = decision.retry_after()?;
    Some(seconds(wait).max(1))
}

/// Whole seconds, rounded up.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
