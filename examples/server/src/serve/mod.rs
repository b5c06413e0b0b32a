//! Runs the server: its listeners, connections, log, reloads and end.

mod activity;
mod bounded;
mod connection;
mod connections;
mod descriptors;
mod limiter;
mod listener;
mod log;
mod reload;
mod run;
mod stopping;

pub(crate) use reload::Reloads;
pub(crate) use run::run;
pub(crate) use stopping::Stopping;
