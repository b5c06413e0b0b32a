//! `POST /reset`: deletes the counts of a key.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use tracing::field::debug;

use super::router::{Admin, AdminName, uncancelled};
use crate::decide::{Algorithm, Question, RefusalKind};
use crate::http::{Problem, body, given};
use crate::limits::Subject;

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

/// Resets the count under the key's limits, or under the limits that the request gives.
pub(super) async fn reset(
    State(admin): State<Admin>,
    Extension(AdminName(name)): Extension<AdminName>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let reset: Reset = body::read(&body::received(body)?, &FIELDS)?;
    let interval = reset.interval.as_deref();
    let limits = given(reset.rate, interval, reset.burst, reset.algorithm)?;
    let rules = admin.gate.rules();
    let tenant = reset.tenant.as_deref();
    let subject = Subject::Key {
        tenant: tenant
            .unwrap_or(rules.catalog.default_tenant.as_str())
            .to_owned(),
        key: reset.key.clone(),
    };
    let question = Question {
        key: Some(reset.key),
        tenant: reset.tenant,
        limits,
        cost: 1,
    };
    uncancelled(async move {
        let done = admin.gate.reset(&question).await;
        let subject = subject.to_string();
        let limits = question.limits.as_ref().map(debug);
        match &done {
            Ok(()) => tracing::info!(admin = %name, subject, limits, "reset a count"),
            Err(refusal) if refusal.kind == RefusalKind::Unavailable => {
                tracing::warn!(admin = %name, subject, limits, "a reset may or may not be done");
            }
            Err(_) => {}
        }
        Ok(done?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
