#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used)]
//! Rate limiting as a tower middleware, for axum, hyper, tonic and any other HTTP service. It is exact,
//! uses a fixed amount of memory, and keeps working while its store is unavailable.
//!
//! ```no_run
//! use std::net::SocketAddr;
//!
//! use axum::{Router, routing::get};
//! use tollgate::{LocalStore, Quota, RateLimitLayer};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let app = Router::new()
//!         .route("/", get(|| async { "hello" }))
//!         // Five requests a second for each client, ten at once.
//!         .layer(RateLimitLayer::new(Quota::per_second(5).burst(10), LocalStore::new()));
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     // The limit is per client address, which the server must provide:
//!     axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
//! }
//! ```
//!
//! Each response has the headers `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`. The
//! eleventh request at once gets a 429 with `Retry-After` and a problem+json body. Further
//! options are methods of [`RateLimitLayer`].
//!
//! # Concepts
//!
//! - A [`Quota`] is a rate: a token bucket, a sliding window or a fixed window. [`Limits`] are several named
//!   quotas, which are charged together: if one denies a request, none is charged.
//! - An [`Identity`] is the client, or another subject that is counted. An [`Identify`] extracts it from a
//!   request. [`UserOrIp`] is the default; [`ClientIp`] reads the forwarding headers of trusted proxies.
//! - A [`Store`] keeps the counts. [`LocalStore`] keeps them in the process.
#![cfg_attr(
    feature = "redis",
    doc = "  [`RedisStore`] keeps them in Redis or Valkey, shared by all processes."
)]
//! - A [`Limiter`] adds a deadline, a circuit breaker and a [`FailureStrategy`] to a store.
//! - A [`Decision`] is the result.
//!
//! A [`Limiter`] is independent of HTTP, so it can be used anywhere:
//!
//! ```
//! use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let limiter = Limiter::from(LocalStore::new());
//! let limits = Limits::from(Quota::per_hour(3));
//! let sender = Identity::user("42");
//! let decision = limiter.check(&Check::new(&sender, &limits)).await;
//! assert_eq!(decision.remaining(), 2);
//! # }
//! ```
//!
//! # Several replicas
//!
//! With the counts in Redis, all replicas of an application share them. Only the store changes:
//!
//! ```
//! # #[cfg(feature = "redis")] {
//! use tollgate::{Quota, RateLimitLayer, RedisStore};
//!
//! // Connects when it is first used. While Redis is unavailable, each process counts alone.
//! let store = RedisStore::new("redis://127.0.0.1:6379")?;
//! let layer = RateLimitLayer::new(Quota::per_minute(100), store);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The [guide] explains identities, algorithms, stores, failures and operation.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `axum` | yes | reads the peer's address from axum's `ConnectInfo` |
//! | `metrics` | yes | counts decisions through the `metrics` facade |
//! | `redis` | yes | keeps counts in Redis or Valkey |
//! | `tracing` | yes | logs changes of state |
//! | `redis-cluster` | no | keeps counts in a Redis Cluster |
//! | `redis-sentinel` | no | finds the Redis server through Redis Sentinel |
//! | `redis-tls` | no | connects to Redis with TLS (rustls) |
//! | `serde` | no | reads [`Quota`], [`Limits`] and [`FailureStrategy`] from configurations |
//! | `test-util` | no | a manual clock, a programmable store, a conformance suite for stores |
//!
//! Features are additive.

// Unit tests use the support code of `tests/`, which names the crate.
#[cfg(test)]
extern crate self as tollgate;

mod clock;
mod excerpt;
pub mod guide;
mod http;
mod identity;
mod limiter;
mod metrics;
mod quota;
mod random;
pub mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
mod timeouts;

pub use clock::{Clock, SystemClock};
pub use identity::{
    ClientIp, ClientIpError, ForwardingHeader, Identify, IdentifyError, Identity, LevelError,
    PeerAddr, UserId, UserOrIp,
};
pub use ipnet::IpNet;
pub use limiter::{
    Charge, Checked, CheckedFuture, Decision, Denied, FailureStrategy, FailureStrategyError,
    Limiter, LimiterBuilder, PendingDecision, Permit,
};
#[cfg(feature = "metrics")]
pub use metrics::describe_metrics;
pub use quota::{
    Algorithm, Kind, Limits, LimitsError, MAX_POLICIES, NameError, Policy, Quota, QuotaError,
    Scope, Status,
};
pub use store::{Check, LocalStore, Store, StoreError, StoreErrorKind};
#[cfg(feature = "redis")]
pub use store::{RedisConfigError, RedisCredentials, RedisStore, RedisStoreBuilder};

#[cfg(feature = "axum")]
pub use self::http::NotExposed;
pub use self::http::{
    Expose, LayerError, LimitsFor, RateLimit, RateLimitLayer, Rejection, RejectionBody,
    RejectionReason, ResponseBody, ResponseFuture, ResponseHeaders, header,
};

#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
