//! The HTTP API.

pub(crate) mod body;
mod check;
mod headers;
mod health;
mod problem;
mod router;
mod status;

pub(crate) use check::given;
pub(crate) use problem::Problem;
pub(crate) use router::{Door, guarded, router};
