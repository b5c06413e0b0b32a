//! The gRPC services: the limiter, Envoy's, health and reflection.

mod caller;
mod collected;
mod draft_headers;
mod envoy;
mod limiter;
mod refused;
mod router;

pub(crate) use router::router;
