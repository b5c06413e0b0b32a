//! `GET /status/{key}`.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::check::{given, respond};
use super::problem::Problem;
use super::router::Door;
use crate::decide::{Algorithm, Question, Refusal};

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
    let question = question(key, query)?;
    Ok(respond(&door.gate.peek(&caller, &question).await?))
}

fn question(
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
