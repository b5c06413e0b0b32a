//! Log events: changes of state only, never one for each request. Without the feature `tracing`,
//! these functions do nothing.

use std::error::Error;
use std::fmt::Display;

/// Logs that a lane's circuit breaker opened. `lane` is usually the server's address.
pub(crate) fn breaker_opened(store: &str, lane: &str, error: &dyn Error) {
    #[cfg(feature = "tracing")]
    {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            store, lane, %error, cause,
            "circuit breaker opened: the failure strategy decides until the rate limit store answers"
        );
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (store, lane, error);
}

/// Logs that a lane's circuit breaker closed.
pub(crate) fn breaker_closed(store: &str, lane: &str) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        store,
        lane,
        "circuit breaker closed: the rate limit store answers again"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (store, lane);
}

/// Logs a layer's first request without an identity.
pub(crate) fn unidentified(scope: &str, reason: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        scope, %reason,
        "request without an identity rejected, unless the layer is in shadow mode; further such \
         requests are counted by rate_limit_unidentified_total and not logged"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, reason);
}

/// Logs that a layer charged one request twice.
pub(crate) fn charged_twice(scope: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope,
        "a request passed the same rate limit layer twice and was charged twice; add the layer to the \
         router or to the route, not to both"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = scope;
}

/// Logs that two layers share a count.
pub(crate) fn shared_count(scope: &str, policy: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope,
        policy,
        "two rate limit layers share this count; unless that is intended, give one of them another \
         `scope`"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, policy);
}
