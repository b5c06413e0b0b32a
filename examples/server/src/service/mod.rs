//! Runs the server: its listeners and connections, and their shutdown.
//!
//! - `run`: starts everything, and stops it on a signal.
//! - `listener`: accepts connections.
//! - `connection_table`: the open connections, their maximum, and eviction.
//! - `connection`: serves one connection.
//! - `request`: serves one request, within its deadline and the memory limit of its connection.
//! - `activity`: the requests in flight on a connection, and the memory that they hold.
//! - `shutdown`: the phases of a graceful shutdown.
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
