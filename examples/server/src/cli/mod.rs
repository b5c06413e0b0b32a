//! The command line: `serve`, `validate`, and commands that send requests to a running server.

mod check;
mod client;
mod command;
mod health;
mod limits;
mod load;
mod status;

pub(crate) use command::Arguments;
