//! The log events of a limiter: changes of state, never one for each request. Without the feature
//! `tracing`, nothing is logged.

use crate::store::StoreError;

/// Logs that a circuit breaker opened. The name of the lane is its server's address, if it has one.
pub(super) fn breaker_opened(store: &str, lane: &str, error: &StoreError) {
    #[cfg(feature = "tracing")]
    {
        let cause = std::error::Error::source(error)
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::warn!(
            store, lane, %error, cause,
            "circuit breaker opened: the failure strategy decides until the rate limit store answers"
        );
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (store, lane, error);
}

/// Logs that a circuit breaker closed.
pub(super) fn breaker_closed(store: &str, lane: &str) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        store,
        lane,
        "circuit breaker closed: the rate limit store answers again"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (store, lane);
}

/// Logs that limits need reservations, which the store does not implement.
pub(super) fn store_cannot_settle(store: &str) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        store,
        "the store cannot reserve: the failure strategy decides checks whose limits have a concurrency \
         limit or `reserve`; implement `Store::can_settle`, or leave out such quotas"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = store;
}

/// Logs that two layers count in the same entries.
pub(super) fn shared_count(scope: &str, policy: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope,
        policy,
        "two rate limit layers share this count; give one of them another `scope` unless it is meant"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, policy);
}
