use std::process::ExitCode;

use axum::http::Method;
use clap::Args;
use serde_json::Value;

use super::check::Limit;
use super::client::{Server, encode};

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    server: Server,
}

impl Status {
    pub(super) async fn run(&self) -> anyhow::Result<ExitCode> {
        let fields = self.limit.fields();
        let query = fields.iter().map(|(name, value)| match value {
            Value::String(text) => format!("{name}={}", encode(text)),
            other => format!("{name}={other}"),
        });
        let query = query.collect::<Vec<_>>().join("&");
        let path = format!("/status/{}?{query}", encode(self.limit.key()));
        let reply = self.server.call()?.send(Method::GET, &path, None).await?;
        println!("{}", reply.body);
        Ok(ExitCode::SUCCESS)
    }
}
