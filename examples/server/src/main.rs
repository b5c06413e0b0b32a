//! Rate limiting as a service for any language: HTTP, gRPC and Envoy in front of one
//! `tollgate::Limiter`.
//!
//! A request goes from `service::listener` through `http` or `grpc`, which parse it, to `decision`, which
//! finds its limits and asks the limiter. `configuration` reads the settings, `limits` holds the limits,
//! `cli` is the command line, and `load` sends many requests to measure a server.

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
            ExitCode::from(cli::FAILED)
        }
    }
}
