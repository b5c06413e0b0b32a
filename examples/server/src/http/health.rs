//! Whether the server is alive, whether it is to be asked, and what it has counted.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;

use super::router::Door;

pub(super) async fn health() -> &'static str {
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

pub(super) async fn ready(State(door): State<Door>) -> impl IntoResponse {
    let stopping = door.stopping.is_stopping();
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

pub(super) async fn metrics(State(door): State<Door>) -> impl IntoResponse {
    let text_format = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (text_format, door.metrics.render())
}
