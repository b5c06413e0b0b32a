//! The gRPC services: `tollgate.v1.RateLimiter`, Envoy's rate limit service, health and reflection.
//!
//! - `router`: the services.
//! - `call`: reads and authenticates a call before its service is called, and converts errors.
//! - `rate_limiter`: `tollgate.v1.RateLimiter`.
//! - `envoy`: Envoy's rate limit service. `envoy_response` builds its response.

mod call;
mod envoy;
mod envoy_response;
mod rate_limiter;
mod router;

pub(crate) use router::router;
