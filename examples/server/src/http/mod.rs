//! The HTTP front door.

mod body;
mod check;
mod headers;
mod health;
mod problem;
mod router;
mod status;

pub(crate) use router::{Door, router};
