//! The paths of the HTTP API, and the endpoints about the server itself.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::check::{Door, check, status};
use super::json::Problem;

/// The longest body, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

pub(crate) fn router(door: Door) -> Router {
    let routes = Router::new()
        .route("/check", post(check))
        .route("/status/{key}", get(status))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics));
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

async fn health() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Whether the store is away. The server answers all the same.
    degraded: bool,
    /// Whether the server is about to end.
    stopping: bool,
}

async fn ready(State(door): State<Door>) -> impl IntoResponse {
    let stopping = door.stopping.is_cancelled();
    let readiness = Readiness {
        ready: !stopping,
        degraded: door.gate.is_degraded().await,
        stopping,
    };
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness))
}

async fn metrics(State(door): State<Door>) -> impl IntoResponse {
    let text_format = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (text_format, door.metrics.render())
}
