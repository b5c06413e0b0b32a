//! The time for a store in the process.
//!
//! - `recent`: the monotonic clock, and readings of it that a thread's processor counter extends;
//! - `wall`: the wall clock in monotonic steps;
//! - `system`: the two as a [`Clock`].

mod recent;
mod system;
mod wall;

pub(crate) use recent::LATE;
pub use system::{Clock, SystemClock};
