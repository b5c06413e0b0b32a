//! What the server promises, a file for each promise, against the real program and real servers.
//!
//! It is one program, since to link each file by itself takes longer than to run it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admin;
mod authentication;
mod callers;
mod command_line;
mod configuration;
mod deploy;
mod envoy;
mod envoy_rules;
mod front_doors;
mod load;
mod outage;
mod overrides;
mod reload;
mod replicas;
mod resources;
mod shutdown;
mod soak;
mod support;
