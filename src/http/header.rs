//! The names of the headers that a layer adds to responses.
//!
//! Responses to allowed and denied requests have the numbers of the
//! [binding policy](crate::Decision):
//!
//! | header | value |
//! |---|---|
//! | `X-RateLimit-Limit` | the quota's [capacity](crate::Quota::capacity): a token bucket's burst, a window's limit |
//! | `X-RateLimit-Remaining` | the cost that is still allowed now |
//! | `X-RateLimit-Reset` | whole seconds until the whole capacity is available again, rounded up; or a Unix time |
//! | `X-RateLimit-Degraded` | `true` if a failure strategy decided, since the store was unavailable |
//! | `X-RateLimit-Shadow` | `true` if a layer in shadow mode would have denied the request |
//! | `Retry-After` | on denials: whole seconds, rounded up, at least 1; absent if the request can never be allowed |
//!
//! With [`ResponseHeaders::and_ietf`], also `RateLimit-Policy` and `RateLimit` as in
//! draft-ietf-httpapi-ratelimit-headers-11. The `t` of `RateLimit` is the reset, and on a denial the
//! value of `Retry-After`: section 6 of the draft asks that the two agree.
//!
//! # Clients
//!
//! `X-RateLimit-Limit` is not the rate: for the quota `100/1m burst 20` it is 20. A client that paces its
//! requests should wait for `Retry-After`, or spread `Remaining` over `Reset` seconds. `Reset` is in
//! seconds from now, as in the IETF draft; clients written for GitHub's API expect a Unix time
//! ([`reset_as_unix_time`](ResponseHeaders::reset_as_unix_time)). Parsers of the IETF fields must accept
//! structured fields (RFC 9651): `RateLimit: "default";r=9;t=1`.
//!
//! # Shared caches
//!
//! The numbers belong to one client. A cache that stores an allowed response sends them to other clients,
//! and a response from a cache is not counted. Put the limit in front of the cache, or mark limited
//! responses `Cache-Control: private`. Rejections have `Cache-Control: no-store`.
//!
//! # Browsers
//!
//! A browser lets scripts of other origins read only the headers that the server exposes. [`exposed`]
//! lists them:
//!
//! ```
//! # mod cors { pub fn expose_headers<I: Into<Vec<http::HeaderName>>>(_: I) {} }
//! // tower_http::cors::CorsLayer::new().expose_headers(tollgate::header::exposed())
//! cors::expose_headers(tollgate::header::exposed());
//! ```

use http::HeaderName;
use http::header::RETRY_AFTER;

/// The capacity of the binding policy: the cost that it allows at once.
pub const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
/// The cost that the binding policy still allows now.
pub const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
/// The time at which the binding policy allows its whole capacity again.
pub const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Present if the store was unavailable.
pub const X_RATELIMIT_DEGRADED: HeaderName = HeaderName::from_static("x-ratelimit-degraded");
/// Present if a layer in shadow mode would have denied the request.
pub const X_RATELIMIT_SHADOW: HeaderName = HeaderName::from_static("x-ratelimit-shadow");
/// The policies (draft-ietf-httpapi-ratelimit-headers-11, section 3).
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The state of the binding policy (draft-ietf-httpapi-ratelimit-headers-11, section 4).
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The number of milliseconds to wait before a gRPC call is retried; negative if the call can never be
/// allowed (gRFC A6).
pub const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Returns the names of the headers that scripts and gRPC-Web clients may read, for
/// `Access-Control-Expose-Headers`.
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

/// Selects the headers that a layer adds to responses.
///
/// ```
/// use tollgate::{LocalStore, Quota, RateLimitLayer, ResponseHeaders};
///
/// RateLimitLayer::new(Quota::per_second(5), LocalStore::new())
///     .headers(ResponseHeaders::x_rate_limit().and_ietf());
/// ```
///
/// `Retry-After`, `X-RateLimit-Degraded` and `X-RateLimit-Shadow` are always added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeaders {
    pub(super) x_rate_limit: bool,
    pub(super) ietf: bool,
    pub(super) unix_time: bool,
}

impl ResponseHeaders {
    /// Selects `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, the default.
    pub const fn x_rate_limit() -> Self {
        Self {
            x_rate_limit: true,
            ..Self::none()
        }
    }

    /// Selects `RateLimit-Policy` and `RateLimit`, as in draft-ietf-httpapi-ratelimit-headers-11.
    pub const fn ietf() -> Self {
        Self {
            ietf: true,
            ..Self::none()
        }
    }

    /// Selects no headers.
    pub const fn none() -> Self {
        Self {
            x_rate_limit: false,
            ietf: false,
            unix_time: false,
        }
    }

    /// Adds the headers of [`ietf`](ResponseHeaders::ietf).
    #[must_use]
    pub const fn and_ietf(self) -> Self {
        Self { ietf: true, ..self }
    }

    /// Sends `X-RateLimit-Reset` as a Unix time in seconds, as GitHub's API does, instead of seconds from now.
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
