//! The command line: `serve`, `validate`, and commands that send requests to a running server.
//!
//! - `command`: the commands.
//! - `client`: an HTTP client of a running server.
//! - `check`: `check`, `status` and `health`; `limits` and `load` have a file each.

mod check;
mod client;
mod command;
mod limits;
mod load;

pub(crate) use command::{Arguments, FAILED};
