//! What is logged: changes of state only, never a line a request. Without the feature `tracing`,
//! nothing is.

use std::fmt::Display;

use crate::store::StoreError;

/// A breaker opened.
pub(crate) fn store_away(store: &str, lane: usize, error: &StoreError) {
    #[cfg(feature = "tracing")]
    {
        let cause = std::error::Error::source(error)
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::warn!(
            store, lane, %error, cause,
            "the rate limiter's store is away: the failure strategy decides until it is back"
        );
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (store, lane, error);
}

/// A breaker closed.
pub(crate) fn store_back(store: &str, lane: usize) {
    #[cfg(feature = "tracing")]
    tracing::info!(store, lane, "the rate limiter's store is back");
    #[cfg(not(feature = "tracing"))]
    let _ = (store, lane);
}

/// A layer met the first request whose identity it could not tell.
pub(crate) fn unidentified(scope: &str, reason: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        scope, %reason,
        "a request's identity cannot be told: it is not served, except in shadow mode (logged \
         once a layer)"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, reason);
}

/// Two layers count together, perhaps unawares.
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
