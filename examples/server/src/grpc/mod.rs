//! The gRPC front doors: our own service, and those that tools expect beside it.

mod caller;
mod draft_headers;
mod envoy;
mod limiter;
mod refused;
mod router;

pub(crate) use router::router;
