use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;

use super::problem::Problem;
use super::{check, health, status};
use crate::decide::{Answer, Gate, Question, Refusal};
use crate::meter;
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
    pub(super) async fn ask(&self, question: Result<Question, Refusal>) -> Result<Answer, Refusal> {
        let answer = match question {
            Ok(question) => self.gate.check(&question).await,
            Err(refusal) => Err(refusal),
        };
        meter::answered("http", &answer);
        answer
    }

    pub(super) async fn look(
        &self,
        question: Result<Question, Refusal>,
    ) -> Result<Answer, Refusal> {
        self.gate.peek(&question?).await
    }
}

pub(crate) fn router(door: Door) -> Router {
    Router::new()
        .route("/check", post(check::check))
        .route("/status/{key}", get(status::status))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has other methods",
            )
        })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(door)
}
