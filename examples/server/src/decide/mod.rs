//! Decisions, independent of the protocol of the question.
//!
//! A door makes a [`Question`] of a request; the [`Gate`] finds the limits, asks the limiter, and
//! returns an [`Answer`], or a [`Refusal`] that says which field is wrong.

mod answer;
mod gate;
mod given;
mod limiters;
mod question;
mod refusal;

pub(crate) use answer::{Answer, milliseconds};
pub(crate) use gate::Gate;
pub(crate) use given::{Algorithm, GivenLimit};
pub(crate) use limiters::{Limiters, MakeLimiter};
pub(crate) use question::Question;
pub(crate) use refusal::{Refusal, RefusalKind};
