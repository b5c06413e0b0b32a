use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::limiter::Decision;

/// Extracts the decision of the innermost layer that [exposes](crate::Expose::decision) it.
///
/// ```
/// use axum::{Router, routing::get};
/// use tollgate::{Decision, Expose, LocalStore, Quota, RateLimitLayer};
///
/// async fn index(decision: Decision<'static>) -> String {
///     format!("{} requests left", decision.remaining())
/// }
///
/// let layer = RateLimitLayer::new(Quota::per_second(5), LocalStore::new())
///     .expose(Expose::new().decision());
/// let app: Router = Router::new().route("/", get(index)).layer(layer);
/// ```
///
/// # Errors
///
/// If no layer exposes its decision. `Option<Decision<'static>>` is then `None`.
impl<S: Sync> FromRequestParts<S> for Decision<'static> {
    type Rejection = MissingDecision;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingDecision> {
        let decision = parts.extensions.get::<Self>();
        decision.cloned().ok_or(MissingDecision(()))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Decision<'static> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// The rejection of a handler that extracts a [`Decision`] although no layer exposes it: a 500 that names
/// the missing call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingDecision(());

impl fmt::Display for MissingDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the request has no rate limit decision: call `.expose(Expose::new().decision())` on the \
             `RateLimitLayer`, and apply that layer to this route",
        )
    }
}

impl std::error::Error for MissingDecision {}

impl IntoResponse for MissingDecision {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
