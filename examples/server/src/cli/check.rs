//! The commands `check`, `status` and `health`.

use std::process::ExitCode;

use axum::http::Method;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Server, encode};
use crate::decision::Algorithm;

/// The exit code of a denied check.
const DENIED_EXIT_CODE: u8 = 1;

/// A key, and optionally the limit to apply to it.
#[derive(Args)]
pub(super) struct KeyAndLimit {
    /// The key that is limited: a user, an API key, an address.
    key: String,
    /// The tenant of the key.
    #[arg(long)]
    tenant: Option<String>,
    /// The cost that is allowed in each interval, instead of the configured limit.
    #[arg(long, requires = "interval")]
    rate: Option<u32>,
    /// The interval, such as 1s or 5m.
    #[arg(long, requires = "rate")]
    interval: Option<String>,
    /// The capacity of a token bucket [default: the rate].
    #[arg(long, requires = "rate")]
    burst: Option<u32>,
    /// The algorithm.
    #[arg(long, requires = "rate")]
    algorithm: Option<Algorithm>,
}

#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    limit: KeyAndLimit,
    /// The cost to charge.
    #[arg(long, default_value_t = 1)]
    cost: u32,
    #[command(flatten)]
    server: Server,
}

impl KeyAndLimit {
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Returns the fields of a request, without the key.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let algorithm = self.algorithm.map(|algorithm| match algorithm {
            Algorithm::TokenBucket => "token_bucket",
            Algorithm::SlidingWindow => "sliding_window",
            Algorithm::FixedWindow => "fixed_window",
        });
        let fields = [
            ("tenant", json!(self.tenant)),
            ("rate", json!(self.rate)),
            ("interval", json!(self.interval)),
            ("burst", json!(self.burst)),
            ("algorithm", json!(algorithm)),
        ];
        let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

impl Check {
    pub(super) async fn run(&self) -> anyhow::Result<ExitCode> {
        let mut fields = self.limit.fields();
        fields.insert("key".to_owned(), json!(self.limit.key()));
        fields.insert("cost".to_owned(), json!(self.cost));
        let body = Value::Object(fields);
        let call = self.server.call()?;
        let reply = call.send(Method::POST, "/check", Some(&body)).await?;
        println!("{}", reply.body);
        let answer: Value = serde_json::from_str(&reply.body)?;
        Ok(match answer["allowed"] {
            Value::Bool(true) => ExitCode::SUCCESS,
            _ => ExitCode::from(DENIED_EXIT_CODE),
        })
    }
}

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    limit: KeyAndLimit,
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
