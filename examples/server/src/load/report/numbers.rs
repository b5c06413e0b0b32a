use std::time::Duration;

use serde::Serialize;

use super::histogram::{Bar, bars};
use crate::load::{Plan, Tally};

/// What a load has come to.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(super) servers: Vec<String>,
    pub(super) in_flight: u32,
    pub(super) rate: Option<u64>,
    pub(super) seconds: f64,
    /// Answers a second.
    pub(super) throughput: f64,
    pub(super) requests: u64,
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) degraded: u64,
    pub(super) errors: u64,
    /// Those that had no answer when the load was stopped.
    pub(super) given_up: u64,
    pub(super) failures: Vec<Failures>,
    /// None if there was no answer.
    pub(super) latency_us: Option<Latency>,
    pub(super) histogram: Vec<Bar>,
}

#[derive(Debug, Serialize)]
pub(super) struct Failures {
    pub(super) kind: String,
    pub(super) count: u64,
    pub(super) first: String,
}

/// In microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) since: Since,
    pub(super) p50: u64,
    pub(super) p95: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

/// What latencies are measured from.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Since {
    Due,
    Sent,
}

impl Report {
    pub(in crate::load) fn new(plan: &Plan, tally: &Tally, took: Duration) -> Self {
        let failures = tally.failures.iter().map(|(kind, failures)| Failures {
            kind: kind.to_string(),
            count: failures.count,
            first: failures.first.1.clone(),
        });
        let latencies = &tally.latencies;
        let latency = Latency {
            since: match plan.rate {
                Some(_) => Since::Due,
                None => Since::Sent,
            },
            p50: latencies.value_at_quantile(0.5),
            p95: latencies.value_at_quantile(0.95),
            p99: latencies.value_at_quantile(0.99),
            max: latencies.max(),
        };
        Self {
            servers: plan.servers.iter().map(ToString::to_string).collect(),
            in_flight: plan.in_flight,
            rate: plan.rate.map(Into::into),
            seconds: took.as_secs_f64(),
            throughput: tally.answers() as f64 / took.as_secs_f64(),
            requests: tally.sent,
            allowed: tally.allowed,
            denied: tally.denied,
            degraded: tally.degraded,
            errors: tally.errors(),
            given_up: tally.sent - tally.answers() - tally.errors(),
            failures: failures.collect(),
            latency_us: (!latencies.is_empty()).then_some(latency),
            histogram: bars(latencies),
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }
}
