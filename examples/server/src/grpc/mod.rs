//! The gRPC front doors: our own service, and those that tools expect beside it.

mod limiter;
mod router;

pub(crate) use router::router;
