use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Registers the units and descriptions of all metrics with the installed recorder.
///
/// Call it once, after installing the recorder and before serving: each metric is registered at the
/// first request that needs it, with the recorder that is installed then.
pub fn describe_metrics() {
    let count = Unit::Count;
    describe_counter!(
        "rate_limit_allowed_total",
        count,
        "Requests allowed, by kind of identity and binding policy"
    );
    describe_counter!(
        "rate_limit_blocked_total",
        count,
        "Requests denied, by kind of identity and binding policy"
    );
    describe_counter!(
        "rate_limit_shadow_blocked_total",
        count,
        "Requests that a shadow layer would have denied"
    );
    describe_counter!(
        "rate_limit_degraded_total",
        count,
        "Requests decided by the failure strategy"
    );
    describe_counter!(
        "rate_limit_unidentified_total",
        count,
        "Requests without an identity, rejected unless their layer is in shadow mode"
    );
    describe_counter!("rate_limit_errors_total", count, "Store errors, by kind");
    describe_counter!(
        "rate_limit_store_operations_total",
        count,
        "Calls of the store, by operation and status"
    );
    describe_counter!(
        "rate_limit_evictions_total",
        count,
        "Live entries evicted from a full table"
    );
    describe_histogram!(
        "rate_limit_check_duration_seconds",
        Unit::Seconds,
        "Time that checks waited for the store; checks decided at once are not timed"
    );
    describe_histogram!(
        "rate_limit_delay_seconds",
        Unit::Seconds,
        "Time by which queued requests are delayed; requests that need not wait are not recorded"
    );
    describe_histogram!(
        "rate_limit_remaining_ratio",
        count,
        "Remaining share of the binding policy's capacity after a decision, 0 to 1, sampled"
    );
    #[cfg(feature = "redis")]
    describe_histogram!("rate_limit_batch_size", count, "Checks in one round trip");
    #[cfg(feature = "redis")]
    describe_counter!(
        "rate_limit_denial_cache_hits_total",
        count,
        "Checks denied from the denial cache, without a round trip"
    );
    describe_gauge!(
        "rate_limit_live_entries",
        count,
        "Live entries in the process, estimated"
    );
    describe_gauge!(
        "rate_limit_breaker_open",
        count,
        "Open circuit breakers of a store's lane"
    );
}
