#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used)]
//! Rate limiting as a tower middleware, for axum, hyper, tonic and any other HTTP service: exact,
//! bounded in memory, and still answering when the store of its counts is not.
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
//!     // The limit is by address, so the server must tell it:
//!     axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
//! }
//! ```
//!
//! Each response says what is left (`X-RateLimit-Limit`, `-Remaining`, `-Reset`), and the eleventh
//! request at once gets a 429 with `Retry-After` and a problem+json body. Everything else is a
//! method of [`RateLimitLayer`].
//!
//! # The parts
//!
//! - What is allowed: a [`Quota`] (token bucket, sliding window, fixed window); several of them,
//!   named, as [`Limits`]. Decided together: if one denies, none is charged.
//! - Who is asking: an [`Identity`], told by an [`Identify`]. [`UserOrIp`] is the default;
//!   [`ClientIp`] reads forwarding headers, of proxies you trust.
//! - Where counts live: a [`Store`]. [`LocalStore`] counts in the process.
#![cfg_attr(
    feature = "redis",
    doc = "  [`RedisStore`] counts in Redis or Valkey, for every process that asks the same server."
)]
//! - What happens when the store fails: the [`Limiter`] answers, as [`FailureStrategy`] says.
//! - What was decided: a [`Decision`].
//!
//! Nothing in a [`Limiter`] knows of HTTP, so it can be asked anywhere:
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
//! # Many machines
//!
//! With the counts in Redis, every replica of an application shares them. Only the store changes:
//!
//! ```
//! # #[cfg(feature = "redis")] {
//! use tollgate::{Quota, RateLimitLayer, RedisStore};
//!
//! // Connects when it is first used. While Redis is away, each process counts by itself.
//! let store = RedisStore::new("redis://127.0.0.1:6379")?;
//! let layer = RateLimitLayer::new(Quota::per_minute(100), store);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The [guide] has the rest.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `axum` | yes | read the peer's address from axum's `ConnectInfo` |
//! | `metrics` | yes | count decisions through the `metrics` facade |
//! | `redis` | yes | share counts in Redis or Valkey |
//! | `tracing` | yes | log changes of state |
//! | `redis-cluster` | no | share counts in a Redis Cluster |
//! | `redis-sentinel` | no | find the server by asking Redis Sentinel |
//! | `redis-tls` | no | connect to Redis with TLS (rustls) |
//! | `serde` | no | [`Quota`] and [`Limits`] in configurations |
//! | `test-util` | no | a manual clock, a programmable store, a conformance suite |
//!
//! A feature adds; none changes what the others do.

// The tests of a module can use what is meant for those in `tests/`.
#[cfg(test)]
extern crate self as tollgate;

mod clock;
mod deadlines;
mod decision;
mod error;
mod events;
pub mod guide;
mod http;
mod identity;
mod limiter;
mod metrics;
mod quota;
mod random;
mod store;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use clock::{Clock, SystemClock};
pub use decision::Decision;
#[cfg(feature = "redis")]
pub use error::RedisConfigError;
pub use identity::{
    ClientIp, ClientIpError, ForwardingHeader, Identify, IdentifyError, Identity, PeerAddr, UserId,
    UserOrIp,
};
pub use ipnet::IpNet;
pub use limiter::{
    Checked, CheckedFuture, FailureStrategy, Limiter, LimiterBuilder, PendingDecision,
};
#[cfg(feature = "metrics")]
pub use metrics::describe_metrics;
pub use quota::{
    Algorithm, Limits, LimitsError, MAX_POLICIES, NameError, Policy, Quota, QuotaError, Scope,
    State, Status,
};
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use store::bench;
pub use store::{
    BoxFuture, Check, LocalStore, Outcome, OwnedCheck, Step, Store, StoreError, StoreErrorKind,
    Verdict,
};
#[cfg(feature = "redis")]
pub use store::{RedisCredentials, RedisStore, RedisStoreBuilder};

pub use self::http::{
    RateLimit, RateLimitLayer, Rejection, ResponseBody, ResponseFuture, ResponseHeaders, header,
};

#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
