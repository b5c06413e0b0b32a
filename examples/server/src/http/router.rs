//! The paths of the HTTP API, and the endpoints for health, readiness and metrics.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::check::{HttpState, check, status};
use super::json::Problem;

/// The maximum size of a request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

pub(crate) fn router(state: HttpState) -> Router {
    let routes = Router::new()
        .route("/check", post(check))
        .route("/status/{key}", get(status))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics));
    with_common_layers(routes).with_state(state)
}

/// Requires the content type of JSON for requests with a body. A browser lets a page of another
/// origin send other content types without a CORS preflight ("simple" requests of the Fetch
/// standard).
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

/// Adds the responses to unknown paths and methods, and the limits for bodies.
pub(crate) fn with_common_layers<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .route_layer(from_fn(require_json))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not support the method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn health() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Whether the store is unavailable. The server still decides requests.
    degraded: bool,
    /// Whether the server has received a signal to stop.
    stopping: bool,
}

async fn ready(State(state): State<HttpState>) -> impl IntoResponse {
    let stopping = state.stopping.is_cancelled();
    let readiness = Readiness {
        ready: !stopping,
        degraded: state.decisions.is_degraded().await,
        stopping,
    };
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness))
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    let text_format = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (text_format, state.metrics.render())
}
