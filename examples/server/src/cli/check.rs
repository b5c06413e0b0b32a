use std::process::ExitCode;

use axum::http::Method;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::Server;
use crate::decide::Algorithm;

/// The server's answer was no.
const DENIED: u8 = 1;

/// A limit, and whose it is.
#[derive(Args)]
pub(super) struct Limit {
    /// Whose limit: a user, an API key, an address.
    key: String,
    /// The tenant that the key belongs to.
    #[arg(long)]
    tenant: Option<String>,
    /// How much is allowed in each interval, instead of what is configured.
    #[arg(long, requires = "interval")]
    rate: Option<u32>,
    /// The interval, such as 1s or 5m.
    #[arg(long, requires = "rate")]
    interval: Option<String>,
    /// How much a token bucket holds: the rate unless set.
    #[arg(long, requires = "rate")]
    burst: Option<u32>,
    /// How it is counted.
    #[arg(long, requires = "rate")]
    algorithm: Option<Algorithm>,
}

#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    limit: Limit,
    /// How much is charged.
    #[arg(long, default_value_t = 1)]
    cost: u32,
    #[command(flatten)]
    server: Server,
}

impl Limit {
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The fields that are given, but for the key.
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
        let given = fields.into_iter().filter(|(_, value)| !value.is_null());
        given
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
        let call = self.server.call();
        let reply = call.send(Method::POST, "/check", Some(&body)).await?;
        println!("{}", reply.body);
        let answer: Value = serde_json::from_str(&reply.body)?;
        Ok(match answer["allowed"] {
            Value::Bool(true) => ExitCode::SUCCESS,
            _ => ExitCode::from(DENIED),
        })
    }
}
