//! The paths of the admin API, authentication, and the endpoints `/reset` and `/configuration`.

use std::time::SystemTime;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use tracing::field::debug;

use super::limits;
use super::request::{Admin, AdminName, uncancelled};
use crate::authentication::bearer;
use crate::decision::{Algorithm, Question, given};
use crate::error::{Refusal, RefusalKind};
use crate::http::{Problem, guarded, json};
use crate::limits::Subject;

pub(crate) fn router(admin: Admin) -> Router {
    let limit = || get(limits::get).put(limits::put).delete(limits::delete);
    let routes = Router::new()
        .route("/limits", get(limits::list))
        .route("/limits/{kind}/{name}", limit())
        .route("/limits/{kind}/{name}/{key}", limit())
        .route("/reset", post(reset))
        .route("/configuration", get(configuration));
    guarded(routes)
        // Outside the routes, so that unauthenticated callers cannot tell which paths exist.
        .layer(from_fn_with_state(admin.clone(), authenticate))
        .with_state(admin)
}

async fn authenticate(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let token = header.and_then(|header| bearer(header.to_str().ok()?));
    let rules = admin.gate.rules();
    let Some(name) = token.and_then(|token| rules.admin_tokens.get(token)) else {
        let problem = "send one of the tokens in `admin.tokens`: `Authorization: Bearer <token>`";
        return Problem::from(Refusal::unauthenticated(problem)).into_response();
    };
    request.extensions_mut().insert(AdminName(name.clone()));
    next.run(request).await
}

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
async fn reset(
    State(admin): State<Admin>,
    Extension(AdminName(name)): Extension<AdminName>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let reset: Reset = json::read(&json::received(body)?, &FIELDS)?;
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

#[derive(Serialize)]
struct Configuration {
    /// When the configuration in force was read, in seconds since the Unix epoch.
    since: u64,
    /// Why a later configuration was refused; null if the latest is in force.
    refused: Option<String>,
    /// Whether changes of run-time limits may be missing, since the last read failed.
    outdated: bool,
}

async fn configuration(State(admin): State<Admin>) -> impl IntoResponse {
    let last = admin.reloads.last();
    let since = last.since.duration_since(SystemTime::UNIX_EPOCH);
    Json(Configuration {
        since: since.unwrap_or_default().as_secs(),
        refused: last.refused.clone(),
        outdated: admin.gate.overrides().is_outdated(),
    })
}
