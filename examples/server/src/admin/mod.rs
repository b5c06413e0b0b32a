//! The admin API: limits that are set at run time.
//!
//! - `router`: the paths, authentication, `POST /reset`, and `GET /configuration`.
//! - `request`: what handlers read from a request beside its body.
//! - `limits`: lists, gets, sets and deletes limits.

mod limits;
mod request;
mod router;

pub(crate) use request::Admin;
pub(crate) use router::router;
