use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;

use super::problem::{Problem, in_time};
use super::{check, health, status};
use crate::authentication::Caller;
use crate::decide::{Gate, Refusal};
use crate::serve::Stopping;

/// No body that makes sense is longer.
const LONGEST_BODY: usize = 64 * 1024;

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) gate: Gate,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) stopping: Stopping,
}

impl Door {
    /// Who asks.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let header = headers.get(AUTHORIZATION);
        // What is no text is no token either.
        let header = header.map(|header| header.to_str().unwrap_or_default());
        self.gate.rules().authenticator.authenticate(header)
    }
}

pub(crate) fn router(door: Door) -> Router {
    let routes = Router::new()
        .route("/check", post(check::check))
        .route("/status/{key}", get(status::status))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics));
    guarded(routes).with_state(door)
}

/// The same routes with an answer to whatever is not among them, and bounds for what is asked: how
/// long its body is, and how long it takes.
pub(crate) fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has other methods",
            )
        })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn(in_time))
}
