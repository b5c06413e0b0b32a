//! The command line: `serve` and `validate`, and clients of a running server.

mod check;
mod client;
mod command;
mod health;
mod limits;
mod load;
mod status;

pub(crate) use command::Arguments;
