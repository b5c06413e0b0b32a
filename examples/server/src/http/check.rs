//! `POST /check` and `GET /status/{key}`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tollgate::header::{
    X_RATELIMIT_DEGRADED, X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET,
};

use super::json::{self, Problem};
use crate::authentication::Caller;
use crate::decision::{Algorithm, Answer, Gate, Question, given, milliseconds, outcome};
use crate::error::Refusal;
use crate::server_metrics;

/// The state of the handlers.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) gate: Gate,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) stopping: CancellationToken,
}

impl Door {
    /// The caller that the headers authenticate.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let header = headers.get(AUTHORIZATION);
        // A header that is not text holds no token.
        let header = header.map(|header| header.to_str().unwrap_or_default());
        self.gate.rules().authenticator.authenticate(header)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    key: Option<String>,
    tenant: Option<String>,
    #[serde(default = "one")]
    cost: u32,
    rate: Option<u32>,
    interval: Option<String>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
}

const FIELDS: [&str; 7] = [
    "key",
    "tenant",
    "cost",
    "rate",
    "interval",
    "burst",
    "algorithm",
];

fn one() -> u32 {
    1
}

#[derive(Serialize)]
struct CheckResponse {
    allowed: bool,
    limit: u32,
    remaining: u32,
    /// `null` if the cost exceeds the capacity.
    retry_after_ms: Option<u64>,
    reset_after_ms: u64,
    degraded: bool,
}

pub(super) async fn check(State(door): State<Door>, request: Request) -> Result<Response, Problem> {
    let answer = match door.caller(request.headers()) {
        Ok(caller) => {
            let body = Bytes::from_request(request, &door).await;
            decide(&door, &caller, &json::received(body)?).await
        }
        // The body of a caller that must authenticate is not read.
        Err(refusal) => Err(refusal),
    };
    server_metrics::check("http", outcome(&answer));
    Ok(respond(&answer?))
}

async fn decide(door: &Door, caller: &Caller, body: &[u8]) -> Result<Answer, Refusal> {
    let question = question(json::read(body, &FIELDS)?)?;
    door.gate.check(caller, &question).await
}

fn question(request: CheckRequest) -> Result<Question, Refusal> {
    let limits = given(
        request.rate,
        request.interval.as_deref(),
        request.burst,
        request.algorithm,
    )?;
    Ok(Question {
        key: request.key,
        tenant: request.tenant,
        limits,
        cost: request.cost,
    })
}

fn respond(answer: &Answer) -> Response {
    let body = CheckResponse {
        allowed: answer.allowed,
        limit: answer.limit,
        remaining: answer.remaining,
        retry_after_ms: answer.retry_after.map(milliseconds),
        reset_after_ms: milliseconds(answer.reset_after),
        degraded: answer.degraded,
    };
    (headers(answer), Json(body)).into_response()
}

/// Which count to look at, if not the one under the configured limits.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusQuery {
    tenant: Option<String>,
    rate: Option<u32>,
    interval: Option<String>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
}

pub(super) async fn status(
    State(door): State<Door>,
    headers: HeaderMap,
    key: Result<Path<String>, PathRejection>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let caller = door.caller(&headers)?;
    let question = status_question(key, query)?;
    Ok(respond(&door.gate.peek(&caller, &question).await?))
}

fn status_question(
    key: Result<Path<String>, PathRejection>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Question, Refusal> {
    let Path(key) = key.map_err(|_| Refusal::invalid("key", "is no UTF-8"))?;
    let Query(query) = query.map_err(|error| Refusal::unreadable(error.body_text()))?;
    let interval = query.interval.as_deref();
    Ok(Question {
        key: Some(key),
        tenant: query.tenant,
        limits: given(query.rate, interval, query.burst, query.algorithm)?,
        cost: 0,
    })
}

fn headers(answer: &Answer) -> HeaderMap {
    let reset = answer.reset_after;
    let seconds = reset.as_secs() + u64::from(reset.subsec_nanos() > 0);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(X_RATELIMIT_LIMIT, answer.limit.into());
    headers.insert(X_RATELIMIT_REMAINING, answer.remaining.into());
    headers.insert(X_RATELIMIT_RESET, seconds.into());
    if answer.degraded {
        headers.insert(X_RATELIMIT_DEGRADED, HeaderValue::from_static("true"));
    }
    headers
}
