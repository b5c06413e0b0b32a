//! Rate limiting as a service for any language: HTTP, gRPC and Envoy front doors over one
//! `tollgate::Limiter`.
//!
//! A request goes `serve::listener` → `http` or `grpc` (what was asked) → `decide` (whose limits,
//! and the limiter) and back. `configuration` reads what the limits are, `limits` keeps them, `cli`
//! is the command line, and `load` a client of many requests.

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

/// The command could not be carried out.
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
