//! The metrics of the server, in addition to the metrics of the library.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

const REQUESTS: &str = "tollgate_server_requests_total";

const ENVOY_HITS: &str = "tollgate_server_envoy_hits_total";

const CONNECTIONS: &str = "tollgate_server_connections";
const CONNECTIONS_ENDED: &str = "tollgate_server_connections_ended_total";

const RELOADS: &str = "tollgate_server_reloads_total";
const RUNTIME_LIMITS: &str = "tollgate_server_runtime_limits";

/// The maximum number of labels `rule` that contain values of requests, which clients choose.
/// Others are counted as `other`, because the recorder keeps every label forever.
const MAX_UNBOUNDED_RULES: usize = 1_000;

/// The maximum length of such a label, in bytes.
const MAX_UNBOUNDED_RULE_LENGTH: usize = 256;

/// The interval of the recorder's upkeep between scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The buckets of the library's histograms. Without buckets the recorder would make summaries,
/// which cannot be aggregated over replicas.
const BUCKETS: [(&str, &[f64]); 3] = [
    (
        "rate_limit_check_duration_seconds",
        &[
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
        ],
    ),
    (
        "rate_limit_remaining_ratio",
        &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    ),
    (
        "rate_limit_batch_size",
        &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0],
    ),
];

/// Installs the recorder. Earlier metrics are lost.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    tollgate::describe_metrics();
    describe_counter!(
        REQUESTS,
        "Checks by HTTP and gRPC, by protocol and outcome."
    );
    describe_counter!(
        ENVOY_HITS,
        "Hits of Envoy's descriptors, by rule and outcome."
    );
    describe_counter!(
        RELOADS,
        "Changed configurations, by result: taken or refused."
    );
    // Starts at 0, so that alerts see the first change as an increase.
    for result in ["taken", "refused"] {
        counter!(RELOADS, "result" => result).increment(0);
    }
    describe_gauge!(CONNECTIONS, "Open connections of clients.");
    describe_counter!(
        CONNECTIONS_ENDED,
        "Connections that the server ended, by reason: a deadline, eviction for a new connection, or \
         refusal of a new connection."
    );
    for reason in ["deadline", "evicted", "refused"] {
        counter!(CONNECTIONS_ENDED, "reason" => reason).increment(0);
    }
    describe_gauge!(RUNTIME_LIMITS, "Limits that were set at run time.");
    Ok(handle)
}

/// Runs the recorder's upkeep, which bounds its memory, until the task is aborted.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        handle.run_upkeep();
    }
}

/// Counts a check.
pub(crate) fn record_check(protocol: &'static str, outcome: &'static str) {
    counter!(REQUESTS, "protocol" => protocol, "outcome" => outcome).increment(1);
}

/// Counts the hits of a descriptor. `is_unbounded` says whether `rule` contains values of the
/// request.
pub(crate) fn record_envoy_hits(
    domain: &str,
    rule: &str,
    is_unbounded: bool,
    outcome: &'static str,
    hits: u64,
) {
    let rule = match is_unbounded && !has_series(domain, rule) {
        true => "other",
        false => rule,
    };
    let (domain, rule) = (domain.to_owned(), rule.to_owned());
    let counter = counter!(ENVOY_HITS, "domain" => domain, "rule" => rule, "outcome" => outcome);
    // Clients choose this number, which must not overflow the counter.
    counter.increment(hits.min(u32::MAX.into()));
}

/// Returns whether a label with values of requests has a series. The first [`MAX_UNBOUNDED_RULES`]
/// labels get one.
fn has_series(domain: &str, rule: &str) -> bool {
    static SERIES: LazyLock<Mutex<HashSet<(String, String)>>> = LazyLock::new(Mutex::default);
    if rule.len() > MAX_UNBOUNDED_RULE_LENGTH {
        return false;
    }
    let label = (domain.to_owned(), rule.to_owned());
    let mut series = SERIES.lock().unwrap_or_else(PoisonError::into_inner);
    series.contains(&label) || (series.len() < MAX_UNBOUNDED_RULES && series.insert(label))
}

/// Counts a changed configuration, which was taken or refused.
pub(crate) fn record_reload(result: &'static str) {
    counter!(RELOADS, "result" => result).increment(1);
}

/// Sets the number of open connections.
pub(crate) fn set_connections(count: usize) {
    gauge!(CONNECTIONS).set(count as f64);
}

/// Counts a connection that the server ended.
pub(crate) fn record_connection_ended(reason: &'static str) {
    counter!(CONNECTIONS_ENDED, "reason" => reason).increment(1);
}

/// Sets the number of run-time limits.
pub(crate) fn set_runtime_limits(count: usize) {
    gauge!(RUNTIME_LIMITS).set(count as f64);
}
