//! Decisions, independent of the protocol of the question.
//!
//! A door makes a [`Question`] of a request; the [`Gate`] finds the limits, asks the limiter, and
//! returns an [`Answer`].
//!
//! - `service`: the [`Gate`].
//! - `request`: questions and answers.
//! - `caller_limit`: limits that callers give.
//! - `limiters`: the library's limiters, made from the settings.

mod caller_limit;
mod limiters;
mod request;
mod service;

pub(crate) use caller_limit::{Algorithm, GivenLimit, given};
pub(crate) use limiters::Limiters;
pub(crate) use request::{Answer, Question, milliseconds, outcome};
pub(crate) use service::Gate;
