//! The command line.

mod command;

pub(crate) use command::Arguments;
