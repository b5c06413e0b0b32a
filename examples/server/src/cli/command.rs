//! The arguments of the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::check::{Check, Health, Status};
use super::limits::Limits;
use super::load::Load;
use crate::configuration::{Configuration, Sources};
use crate::service::{self, Ended};

/// The exit code of a command that failed.
pub(crate) const FAILED_EXIT_CODE: u8 = 2;

/// Rate limiting as a service: HTTP, gRPC and Envoy in front of one limiter.
#[derive(Parser)]
#[command(name = "tollgate-server", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until a signal to stop.
    Serve {
        /// The configuration. Without one, each key has 60 requests a minute, counted in this
        /// process.
        #[arg(long, short, env = "TOLLGATE_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Check a configuration and the environment variables that override it, and print the first
    /// error.
    Validate {
        /// The configuration.
        config: PathBuf,
    },
    /// Check a key at a running server, and charge it. Exits with 1 if the check is denied.
    Check(Check),
    /// Print the state of a key at a running server, without charging it.
    Status(Status),
    /// Print the health of a running server, for the health check of a container. Exits with 1 if
    /// the server does not respond.
    Health(Health),
    /// List, show, set and delete run-time limits.
    #[command(subcommand)]
    Limits(Limits),
    /// Send requests to running servers, and measure their responses. Exits with 2 if any request
    /// has failed.
    Load(Load),
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve { config } => match service::run(config.as_deref()).await? {
                Ended::Stopped => {}
                Ended::Failed => return Ok(ExitCode::from(FAILED_EXIT_CODE)),
            },
            Command::Validate { config } => {
                Configuration::load(Some(&config), &mut Sources::default())?;
                println!("{} is good", config.display());
            }
            Command::Check(check) => return check.run().await,
            Command::Status(status) => return status.run().await,
            Command::Health(health) => return Ok(health.run().await),
            Command::Limits(limits) => return limits.run().await,
            Command::Load(load) => return load.run().await,
        }
        Ok(ExitCode::SUCCESS)
    }
}
