//! The log events of a layer. Each is logged at most once for a layer, never once for a request. Without
//! the feature `tracing`, nothing is logged.

use std::fmt::Display;
use std::net::IpAddr;

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

/// Logs the first request whose peer is in an exempt network, but that is not exempt.
pub(super) fn unknown_client(scope: &str, peer: IpAddr) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope, %peer,
        "a request from an exempt network is limited: its peer is a proxy, or it has a header of a proxy, \
         and its client's address is not known; if the peer is a proxy, list it in `ClientIp::behind`; \
         further requests are not logged"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, peer);
}

/// Logs the first request whose scope has an invalid name.
pub(super) fn invalid_scope(scope: &str, error: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope, %error,
        "a request is counted in the scope of its layer, since the closure of `scope_for` returned an \
         invalid name; further requests with invalid names are not logged"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, error);
}

/// Logs the first request whose scope is one too many.
pub(super) fn too_many_scopes(scope: &str, most: usize) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        scope,
        "the requests of a layer have chosen {most} different scopes; requests with further names are \
         counted in the scope of the layer: return fewer names in `scope_for`"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (scope, most);
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
