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
use crate::authentication::Principal;
use crate::decision::{
    Algorithm, DecisionRequest, DecisionResponse, DecisionService, milliseconds, outcome,
    parse_caller_limit,
};
use crate::error::ApiError;
use crate::server_metrics;

/// The state of the handlers.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) decisions: DecisionService,
    pub(crate) metrics: PrometheusHandle,
    /// Cancelled by the signal to stop.
    pub(crate) stopping: CancellationToken,
}

impl HttpState {
    /// Authenticates the caller by the headers.
    fn principal(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        let header = headers.get(AUTHORIZATION);
        // A header that is not ASCII contains no valid token.
        let header = header.map(|header| header.to_str().unwrap_or_default());
        self.decisions.settings().authenticator.authenticate(header)
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

pub(super) async fn check(
    State(state): State<HttpState>,
    request: Request,
) -> Result<Response, Problem> {
    let response = match state.principal(request.headers()) {
        Ok(principal) => {
            let body = Bytes::from_request(request, &state).await;
            decide(&state, &principal, &json::complete_body(body)?).await
        }
        // The body of an unauthenticated request is not read.
        Err(error) => Err(error),
    };
    server_metrics::record_check("http", outcome(&response));
    Ok(respond(&response?))
}

async fn decide(
    state: &HttpState,
    principal: &Principal,
    body: &[u8],
) -> Result<DecisionResponse, ApiError> {
    let request = decision_request(json::parse_object(body, &FIELDS)?)?;
    state.decisions.check(principal, &request).await
}

fn decision_request(request: CheckRequest) -> Result<DecisionRequest, ApiError> {
    let limits = parse_caller_limit(
        request.rate,
        request.interval.as_deref(),
        request.burst,
        request.algorithm,
    )?;
    Ok(DecisionRequest {
        key: request.key,
        tenant: request.tenant,
        limits,
        cost: request.cost,
    })
}

fn respond(response: &DecisionResponse) -> Response {
    let body = CheckResponse {
        allowed: response.allowed,
        limit: response.capacity,
        remaining: response.remaining,
        retry_after_ms: response.retry_after.map(milliseconds),
        reset_after_ms: milliseconds(response.reset_after),
        degraded: response.degraded,
    };
    (headers(response), Json(body)).into_response()
}

/// The tenant, and the limit that the caller sent with its checks.
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
    State(state): State<HttpState>,
    headers: HeaderMap,
    key: Result<Path<String>, PathRejection>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let principal = state.principal(&headers)?;
    let request = status_request(key, query)?;
    Ok(respond(&state.decisions.peek(&principal, &request).await?))
}

fn status_request(
    key: Result<Path<String>, PathRejection>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<DecisionRequest, ApiError> {
    let Path(key) = key.map_err(|_| ApiError::invalid("key", "is not UTF-8"))?;
    let Query(query) = query.map_err(|error| ApiError::invalid_request(error.body_text()))?;
    let interval = query.interval.as_deref();
    Ok(DecisionRequest {
        key: Some(key),
        tenant: query.tenant,
        limits: parse_caller_limit(query.rate, interval, query.burst, query.algorithm)?,
        cost: 0,
    })
}

/// Returns the `X-RateLimit-*` headers.
fn headers(response: &DecisionResponse) -> HeaderMap {
    let reset = response.reset_after;
    let seconds = reset.as_secs() + u64::from(reset.subsec_nanos() > 0);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(X_RATELIMIT_LIMIT, response.capacity.into());
    headers.insert(X_RATELIMIT_REMAINING, response.remaining.into());
    headers.insert(X_RATELIMIT_RESET, seconds.into());
    if response.degraded {
        headers.insert(X_RATELIMIT_DEGRADED, HeaderValue::from_static("true"));
    }
    headers
}
