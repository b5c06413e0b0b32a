//! Rate limiting as a service for any language: HTTP, gRPC and Envoy in front of one
//! `tollgate::Limiter`.
//!
//! A request goes through these modules:
//!
//! - `service`: runs the server, accepts connections and limits their resources.
//! - `http`, `grpc` and `admin`: parse requests and write responses. `envoy` has the rules for
//!   Envoy.
//! - `authentication`: authenticates callers.
//! - `decision`: decides requests with the library's limiter.
//! - `limits`: the limits of tiers, tenants and keys.
//!
//! `configuration` reads the settings, `cli` is the command line, and `load` measures running
//! servers.

mod admin;
mod authentication;
mod cli;
mod configuration;
mod decision;
mod envoy;
mod error;
#[cfg(test)]
mod fuzz;
mod grpc;
mod http;
mod limits;
mod load;
mod protocol;
mod server_metrics;
mod service;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::Arguments::parse().run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tollgate-server: {error:#}");
            ExitCode::from(cli::FAILED_EXIT_CODE)
        }
    }
}
