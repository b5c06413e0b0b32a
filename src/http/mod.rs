//! All that knows of HTTP and tower: the layer, its service, headers and rejections.
//!
//! The service asks who, what and whether; everything it needs for that is in its layer's
//! configuration. [`header`] names the headers that responses carry.

mod body;
mod config;
mod fixed;
mod future;
pub mod header;
mod layer;
mod number;
mod prepared;
mod rejection;
mod service;

pub use body::ResponseBody;
pub use future::ResponseFuture;
pub use header::ResponseHeaders;
pub use layer::RateLimitLayer;
pub use rejection::Rejection;
pub use service::RateLimit;
