//! The tower layer and its service.

// layer:              the layer, with its options
// service:            the service, which calls the handler
// future:             the service's response future
// handler:            decides a request by the layer's options
// limits_for:         the limits of a request
// request_scopes:     the scopes that requests choose
// route_scope:        the scope of an axum route
// rejection:          the responses to denied requests
// rate_limit_headers: the headers of a decision
// charged:            requests with a permit: their charge is settled by the response
// waiting:            requests that wait in a queue
// settings:           the options for responses
// templates:          the parts of responses that are built once for each layer
// header_template:    a header map with three numbers to fill in
// number:             numbers as header values
// body:               the body of a response
// rejection_body:     the body of a rejection
// expose:             the values that a layer inserts into extensions
// denied:             the response of a handler whose own check was denied
// header:             the names of the headers
// extract:            axum's extractor of a decision
// events:             the log

mod body;
mod charged;
mod denied;
mod events;
mod expose;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod handler;
pub mod header;
mod header_template;
mod layer;
mod limits_for;
mod number;
mod rate_limit_headers;
mod rejection;
mod rejection_body;
mod request_scopes;
#[cfg(feature = "axum")]
mod route_scope;
mod service;
mod settings;
mod templates;
mod waiting;

pub use body::ResponseBody;
pub use expose::Expose;
#[cfg(feature = "axum")]
pub use extract::NotExposed;
pub use future::ResponseFuture;
pub use header::ResponseHeaders;
pub use layer::{LayerError, RateLimitLayer};
pub use limits_for::LimitsFor;
pub use rejection::{Rejection, RejectionReason};
pub use rejection_body::RejectionBody;
pub use service::RateLimit;
