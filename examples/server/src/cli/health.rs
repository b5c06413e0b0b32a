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
    /// Exits with 1 whatever the reason is: a container's health check knows no other code.
    pub(super) async fn run(&self) -> ExitCode {
        match self.server.call().send(Method::GET, "/health", None).await {
            Ok(reply) => {
                println!("{}", reply.body.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        }
    }
}
