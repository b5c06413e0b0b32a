//! The command line: `serve`, `validate`, and commands that send requests to a running server.
//!
//! - `command`: the arguments, and the commands `serve` and `validate`.
//! - `check`: the commands `check`, `status` and `health`.
//! - `limits` and `load`: the commands of these names.
//! - `client`: an HTTP client for a running server.

mod check;
mod client;
mod command;
mod limits;
mod load;

pub(crate) use command::{Arguments, FAILED_EXIT_CODE};
