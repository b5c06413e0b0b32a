//! Runs the server.
//!
//! - `run`: starts everything, and stops it on a signal.
//! - `listener`: accepts connections.
//! - `connection_table`: the open connections, how many there may be, and eviction.
//! - `connection`: serves one connection, and `request` each of its requests, within their limits.
//! - `activity`: the requests of one connection, as all of these see them.
//! - `shutdown`: the phases in which the server stops.
//! - `log`: the log.

mod activity;
mod connection;
mod connection_table;
mod listener;
mod log;
mod request;
mod run;
mod shutdown;

pub(crate) use run::{Ended, run};
