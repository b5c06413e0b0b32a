use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::check::Check;
use super::health::Health;
use super::limits::Limits;
use super::load::Load;
use super::status::Status;
use crate::configuration::{Configuration, Sources};
use crate::serve;

/// Rate limiting as a service: HTTP, gRPC and Envoy in front of one limiter.
#[derive(Parser)]
#[command(name = "tollgate-server", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until told to stop.
    Serve {
        /// The configuration. Without one, everybody has 60 a minute, counted in this process.
        #[arg(long, short, env = "TOLLGATE_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Read a configuration, with the environment over it, and say what is wrong with it.
    Validate {
        /// The configuration.
        config: PathBuf,
    },
    /// Ask a running server whether something may happen now. Exits with 1 if it may not.
    Check(Check),
    /// Ask a running server how much is left, without charging.
    Status(Status),
    /// Ask a running server whether it is alive. Exits with 1 if it is not: for containers.
    Health(Health),
    /// List, show, set and delete limits of running servers.
    #[command(subcommand)]
    Limits(Limits),
    /// Drive running servers with requests, and measure their answers. Exits with 2 if any request
    /// was not answered.
    Load(Load),
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve { config } => serve::run(config.as_deref()).await?,
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
