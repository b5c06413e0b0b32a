//! Decides requests, independent of their protocol.
//!
//! A front end makes a [`DecisionRequest`] of a request. The [`DecisionService`] finds its limits
//! and checks them with the library's limiter. The front end converts the [`DecisionResponse`], or
//! the [`ApiError`](crate::error::ApiError), to its protocol.
//!
//! - `service`: the [`DecisionService`].
//! - `request`: its requests and responses.
//! - `caller_limit`: limits that callers send with a request.
//! - `limiters`: the library's limiters, made from the settings.

mod caller_limit;
mod limiters;
mod request;
mod service;

pub(crate) use caller_limit::{Algorithm, CallerLimit, parse_caller_limit};
pub(crate) use limiters::Limiters;
pub(crate) use request::{DecisionRequest, DecisionResponse, milliseconds, outcome};
pub(crate) use service::DecisionService;
