//! What the server counts beside what the library does.

use std::time::Duration;

use metrics::{counter, describe_counter};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::decide::{Answer, Refusal, RefusalKind};

const REQUESTS: &str = "tollgate_server_requests_total";

/// How often the recorder tidies up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Begins to count. What is counted before is lost.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    tollgate::describe_metrics();
    describe_counter!(
        REQUESTS,
        "Questions to the server, by front door and what became of them."
    );
    Ok(handle)
}

/// Keeps the recorder's memory small, for ever.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        handle.run_upkeep();
    }
}

/// A question was answered, or was not.
pub(crate) fn answered(door: &'static str, answer: &Result<Answer, Refusal>) {
    let outcome = match answer {
        Ok(answer) if answer.allowed => "allowed",
        Ok(_) => "denied",
        Err(refusal) => match refusal.kind {
            RefusalKind::Invalid => "invalid",
        },
    };
    counter!(REQUESTS, "door" => door, "outcome" => outcome).increment(1);
}
