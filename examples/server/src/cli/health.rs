use std::process::ExitCode;

use axum::http::Method;
use clap::Args;

use super::client::Server;

#[derive(Args)]
pub(super) struct Health {
    #[command(flatten)]
    server: Server,
}

impl Health {
    /// Prints the server's health. The exit code of every failure is 1, because Docker reserves 2.
    pub(super) async fn run(&self) -> ExitCode {
        match self.health().await {
            Ok(health) => {
                println!("{}", health.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        }
    }

    async fn health(&self) -> anyhow::Result<String> {
        let call = self.server.call()?;
        Ok(call.send(Method::GET, "/health", None).await?.body)
    }
}
