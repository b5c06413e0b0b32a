use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;

use super::problem::Problem;
use super::{check, health, status};
use crate::authentication::Caller;
use crate::decide::{Gate, Refusal};
use crate::serve::Stopping;

/// The longest body, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// The state of the handlers.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) gate: Gate,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) stopping: Stopping,
}

impl Door {
    /// The caller that the headers authenticate.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let header = headers.get(AUTHORIZATION);
        // A header that is not text holds no token.
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

/// Refuses bodies that are not said to be JSON. A web page of another origin may send such a request
/// without asking first (a "simple" request of the Fetch standard), but none with this content type.
async fn require_json(request: Request, next: Next) -> Response {
    let has_body = matches!(*request.method(), Method::POST | Method::PUT);
    let kind = request.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()?.split(';').next());
    if has_body && !kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let problem = "the body must be JSON: send `Content-Type: application/json`";
        return Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem).into_response();
    }
    next.run(request).await
}

/// Adds answers to requests for other paths and methods, and a bound for bodies.
pub(crate) fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .route_layer(from_fn(require_json))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has other methods",
            )
        })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
}
