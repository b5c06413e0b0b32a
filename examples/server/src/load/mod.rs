//! Sends checks to running servers, and measures their responses.
//!
//! - `plan`: the options of a load, and the schedule of its requests.
//! - `run`: sends the requests.
//! - `client`: clients for HTTP and gRPC.
//! - `tally`: counts the results. `report` shows them.

mod client;
mod plan;
mod report;
mod run;
mod tally;

pub(crate) use client::Address;
pub(crate) use plan::{Amount, Plan};
pub(crate) use run::run;
