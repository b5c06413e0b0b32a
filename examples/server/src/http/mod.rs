//! The HTTP API.
//!
//! - `router`: the paths, and the endpoints for health, readiness and metrics.
//! - `check`: `POST /check` and `GET /status/{key}`.
//! - `json`: reads JSON bodies, and writes errors as problem+json.

mod check;
pub(crate) mod json;
mod router;

pub(crate) use check::HttpState;
pub(crate) use json::Problem;
pub(crate) use router::{router, with_common_layers};
