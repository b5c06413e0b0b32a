//! What is logged: changes of state only, never a line a request. Without the feature `tracing`,
//! nothing is.

use std::fmt::Display;

use crate::store::StoreError;

/// A circuit breaker opened. The lane is named, mostly by its server's address.
pub(crate) fn breaker_opened(store: &str, lane: &str, error: &StoreError) {
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

/// A circuit breaker closed.
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

/// A layer met its first request without an identity.
pub(crate) fn unidentified(scope: &str, reason: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        scope, %reason,
        "request without an identity rejected, unless the layer is in shadow mode; further ones are \
         counted by rate_limit_unidentified_total and not logged"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, reason);
}

/// A layer has charged one request twice.
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

/// Two layers share a count, perhaps by accident.
pub(crate) fn shared_count(scope: &str, policy: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope,
        policy,
        "two rate limit layers share this count; give one of them another `scope` unless it is meant"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, policy);
}
