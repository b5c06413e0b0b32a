//! Tests of the server's promises against the real program and real servers: a file for each promise.
//!
//! All files are one program, since linking one for each would take longer than running them.

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
mod log;
mod outage;
mod overrides;
mod reload;
mod replicas;
mod resources;
mod shutdown;
mod soak;
mod support;
