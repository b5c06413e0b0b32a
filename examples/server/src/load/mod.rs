//! Drives running servers with checks, and measures what they answer.
//!
//! - `plan`: what to ask, and when each request is due.
//! - `run`: asks.
//! - `client`: the clients for HTTP and gRPC.
//! - `tally`: what came back, and `report`: its numbers.

mod client;
mod plan;
mod report;
mod run;
mod tally;

pub(crate) use client::Address;
pub(crate) use plan::{Amount, Plan};
pub(crate) use run::run;
