use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::limiter::{Charge, Decision};

/// Implements both extractors for a type that a layer exposes.
macro_rules! impl_extract {
    ($(#[$docs:meta])* $type:ty, $name:literal) => {
        $(#[$docs])*
        impl<S: Sync> FromRequestParts<S> for $type {
            type Rejection = NotExposed;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotExposed> {
                parts.extensions.get::<Self>().cloned().ok_or(NotExposed($name))
            }
        }

        impl<S: Sync> OptionalFromRequestParts<S> for $type {
            type Rejection = Infallible;

            async fn from_request_parts(
                parts: &mut Parts,
                _: &S,
            ) -> Result<Option<Self>, Infallible> {
                Ok(parts.extensions.get::<Self>().cloned())
            }
        }
    };
}

impl_extract! {
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
    Decision<'static>, "decision"
}

impl_extract! {
    /// Extracts the charge of the innermost layer that [exposes](crate::Expose::charge) it.
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use tollgate::{Charge, Expose, LocalStore, Quota, RateLimitLayer};
    ///
    /// async fn summarize(charge: Charge, text: String) -> String {
    ///     charge.settle(text.len() as u32);
    ///     text.chars().take(80).collect()
    /// }
    ///
    /// let layer = RateLimitLayer::new(Quota::per_minute(1_000_000), LocalStore::new())
    ///     .cost_for(|_| 10_000)
    ///     .expose(Expose::new().charge());
    /// let app: Router = Router::new().route("/", post(summarize)).layer(layer);
    /// ```
    ///
    /// # Errors
    ///
    /// If no layer exposes its charge. `Option<Charge>` is then `None`.
    Charge, "charge"
}

/// The rejection of a handler that extracts a [`Decision`] or a [`Charge`] although no layer exposes it: a
/// 500 that names the missing call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotExposed(&'static str);

impl fmt::Display for NotExposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        write!(
            f,
            "the request has no rate limit {name}: call `.expose(Expose::new().{name}())` on the \
             `RateLimitLayer`, and apply that layer to this route",
        )
    }
}

impl std::error::Error for NotExposed {}

impl IntoResponse for NotExposed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
