//! Drives running servers with checks, and measures what they answer.
//!
//! A [`Plan`] says what to ask, and when is its [`schedule`]'s matter: at a rate, whose instants
//! [`pace`] keeps, or as soon as an answer has come. [`run()`] asks through a [`client`] for each
//! server, and the [`Tally`] of what came back becomes a [`report`].

mod address;
mod client;
mod failure;
mod grpc;
mod http;
mod pace;
mod plan;
mod progress;
mod report;
mod run;
mod schedule;
mod tally;

pub(crate) use address::Address;
pub(crate) use plan::{Amount, Plan};
pub(crate) use run::run;
use tally::Tally;
