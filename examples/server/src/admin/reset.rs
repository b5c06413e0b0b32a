//! `POST /reset`: forgets what was counted for a key.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;

use super::router::Admin;
use crate::decide::{Algorithm, Question};
use crate::http::{Problem, body, given};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    key: String,
    tenant: Option<String>,
    rate: Option<u32>,
    interval: Option<String>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
}

const FIELDS: [&str; 6] = ["key", "tenant", "rate", "interval", "burst", "algorithm"];

/// Of the count under the configured limits, or under those that are given.
pub(super) async fn reset(
    State(admin): State<Admin>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let reset: Reset = body::read(&body::received(body)?, &FIELDS)?;
    let interval = reset.interval.as_deref();
    let limits = given(reset.rate, interval, reset.burst, reset.algorithm)?;
    let question = Question {
        key: Some(reset.key),
        tenant: reset.tenant,
        limits,
        cost: 1,
    };
    admin.gate.reset(&question).await?;
    Ok(StatusCode::NO_CONTENT)
}
