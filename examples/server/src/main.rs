//! Rate limiting as a service for any language: HTTP, gRPC and Envoy in front of one
//! `tollgate::Limiter`.
//!
//! A request goes from `serve::listener` through `http` or `grpc`, which parse it, to `decide`, which
//! finds its limits and asks the limiter. `configuration` reads the settings, `limits` holds the limits,
//! `cli` is the command line, and `load` sends many requests to measure a server.

mod admin;
mod authentication;
mod cli;
mod configuration;
mod decide;
mod envoy;
mod grpc;
mod http;
mod limits;
mod load;
mod meter;
mod protocol;
mod serve;

use std::process::ExitCode;

use clap::Parser;

/// The exit code of a command that failed.
const FAILED: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::Arguments::parse().run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tollgate-server: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
