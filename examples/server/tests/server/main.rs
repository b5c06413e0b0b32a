//! Tests of the real program, with real servers. Each file tests one promise, which its first lines
//! state.
//!
//! All files are one test program, because linking one for each would take longer than the tests.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admin;
mod authentication;
mod callers;
mod command_line;
mod configuration;
mod deploy;
mod envoy;
mod envoy_rules;
mod http_and_grpc;
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
