//! The gRPC services: the limiter, Envoy's, health and reflection.
//!
//! - `router`: the services, and the health that they report.
//! - `call`: reads and authenticates a call before its service sees it; refusals as statuses.
//! - `rate_limiter`: `tollgate.v1.RateLimiter`.
//! - `envoy`: Envoy's service, and `envoy_response`: its response.

mod call;
mod envoy;
mod envoy_response;
mod rate_limiter;
mod router;

pub(crate) use router::router;
