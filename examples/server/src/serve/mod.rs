//! Runs the front doors, from the first connection to the last.

mod limiter;
mod listener;
mod log;
mod run;
mod stopping;

pub(crate) use run::run;
pub(crate) use stopping::Stopping;
