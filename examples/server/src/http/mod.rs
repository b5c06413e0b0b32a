//! The HTTP API.
//!
//! - `router`: the paths, and the endpoints about the server itself.
//! - `check`: `POST /check` and `GET /status/{key}`.
//! - `json`: reads bodies, and writes errors as problem+json.

mod check;
pub(crate) mod json;
mod router;

pub(crate) use check::Door;
pub(crate) use json::Problem;
pub(crate) use router::{guarded, router};
