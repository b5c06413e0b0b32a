//! The command `load`.

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::ctrl_c;
use tollgate::Quota;

use super::client::http_server;
use crate::load::{self, Address, Amount, Plan};

/// The exit code if any request has failed.
const ERRORS_EXIT_CODE: u8 = 2;

/// The default of `--duration`.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Load {
    /// A server: http://host:port, or grpc://host:port for gRPC. Several servers, separated by
    /// commas or in several options, are used in turn [default: the address in
    /// TOLLGATE__LISTEN__HTTP, with 0.0.0.0 or :: as the loopback address, or
    /// http://127.0.0.1:8080].
    #[arg(long = "server", env = "TOLLGATE_SERVER", value_delimiter = ',')]
    servers: Vec<Address>,
    /// The token to send, if the servers require one.
    #[arg(long, env = "TOLLGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The number of requests.
    #[arg(long, conflicts_with = "duration")]
    requests: Option<NonZeroU64>,
    /// The time in which to send requests, such as 1m [default: 10s, without --requests].
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// The number of requests in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// The number of requests that are due in a second. Latencies are then measured from the time
    /// at which a request was due, not from the time at which it was sent. Without a rate, a
    /// request is sent as soon as another one is answered.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// The timeout of a request.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The number of different keys, which are used in turn.
    #[arg(long, default_value = "1000")]
    keys: NonZeroU64,
    /// The prefix of keys; a number follows.
    #[arg(long, default_value = "load:")]
    key_prefix: String,
    /// The limit to apply, such as 5/1s, instead of the configured one.
    #[arg(long)]
    limit: Option<Quota>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Load {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let amount = match self.requests {
            Some(requests) => Amount::Requests(requests.get()),
            None => Amount::For(self.duration.unwrap_or(DEFAULT_DURATION)),
        };
        let servers = match self.servers.is_empty() {
            true => vec![http_server()?.parse().map_err(anyhow::Error::msg)?],
            false => self.servers,
        };
        let plan = Plan {
            servers,
            token: self.token,
            amount,
            in_flight: self.in_flight,
            timeout: self.timeout,
            rate: self.rate.and_then(NonZeroU64::new),
            keys: self.keys,
            key_prefix: self.key_prefix,
            limit: self.limit,
        };
        let stop = async {
            // Without a signal handler, the load runs to its end.
            if ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let report = load::run(plan, stop).await?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print!("{report}");
        }
        Ok(if report.has_errors() {
            ExitCode::from(ERRORS_EXIT_CODE)
        } else {
            ExitCode::SUCCESS
        })
    }
}
