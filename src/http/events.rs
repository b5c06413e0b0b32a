//! The log events of a layer. Each is logged at most once for a layer, never once for a request. Without
//! the feature `tracing`, nothing is logged.

use std::fmt::Display;

/// Logs the first request without an identity.
pub(super) fn unidentified(scope: &str, reason: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        scope, %reason,
        "request without an identity rejected, unless the layer is in shadow mode; further ones are \
         counted by rate_limit_unidentified_total and not logged"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, reason);
}

/// Logs that a layer has charged a request twice.
pub(super) fn charged_twice(scope: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope,
        "a request passed the same rate limit layer twice and was charged twice; add the layer to the \
         router or to the route, not to both"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = scope;
}
