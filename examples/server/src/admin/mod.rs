//! The admin API, for operators: limits that are set at run time, resets, and the state of the
//! configuration.
//!
//! - `router`: the paths, authentication, and the endpoints `/reset` and `/configuration`.
//! - `limits`: lists, gets, sets and deletes limits.
//! - `request`: the state of the handlers, and the parts of requests that several handlers read.

mod limits;
mod request;
mod router;

pub(crate) use request::AdminState;
pub(crate) use router::router;
