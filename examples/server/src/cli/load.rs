use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::ctrl_c;
use tollgate::Quota;

use crate::load::{self, Address, Amount, Plan};

/// Not every request was answered.
const ERRORS: u8 = 2;

/// How long it takes unless it is said how long, or how much.
const DURATION: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Load {
    /// A server's door: http://host:port, or grpc://host:port for gRPC. Several, with commas or by
    /// saying it again, are asked in turn.
    #[arg(
        long = "server",
        env = "TOLLGATE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    servers: Vec<Address>,
    /// The token to show, if the servers want one.
    #[arg(long, env = "TOLLGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How many requests are sent.
    #[arg(long, conflicts_with = "duration")]
    requests: Option<NonZeroU64>,
    /// How long requests are sent, such as 1m: 10s unless this or --requests is set.
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// How many requests are under way at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// How many requests are due a second. Latencies are then measured from when each was due, not
    /// from when it was sent. Unless set, each is sent as soon as another is answered.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// How long an answer is waited for.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How many different keys are asked about, in turn.
    #[arg(long, default_value = "1000")]
    keys: NonZeroU64,
    /// What keys begin with; a number follows.
    #[arg(long, default_value = "load:")]
    key_prefix: String,
    /// The limit to decide by, such as 5/1s, instead of what is configured.
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
            None => Amount::For(self.duration.unwrap_or(DURATION)),
        };
        let plan = Plan {
            servers: self.servers,
            token: self.token,
            amount,
            in_flight: self.in_flight,
            patience: self.timeout,
            rate: self.rate.and_then(NonZeroU64::new),
            keys: self.keys,
            key_prefix: self.key_prefix,
            limit: self.limit,
        };
        let stop = async {
            // If signals cannot be had, it cannot be stopped early.
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
            ExitCode::from(ERRORS)
        } else {
            ExitCode::SUCCESS
        })
    }
}
