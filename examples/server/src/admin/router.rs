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
use super::request::{AdminName, AdminState, run_to_completion};
use crate::authentication::bearer_token;
use crate::decision::{Algorithm, DecisionRequest, parse_caller_limit};
use crate::error::{ApiError, ApiErrorKind};
use crate::http::{Problem, json, with_common_layers};
use crate::limits::LimitSubject;

pub(crate) fn router(admin: AdminState) -> Router {
    let limit = || get(limits::get).put(limits::put).delete(limits::delete);
    let routes = Router::new()
        .route("/limits", get(limits::list))
        .route("/limits/{kind}/{name}", limit())
        .route("/limits/{kind}/{name}/{key}", limit())
        .route("/reset", post(reset))
        .route("/configuration", get(configuration));
    with_common_layers(routes)
        // Around the fallback as well, so that unauthenticated callers cannot find out which paths
        // exist.
        .layer(from_fn_with_state(admin.clone(), authenticate))
        .with_state(admin)
}

async fn authenticate(
    State(admin): State<AdminState>,
    mut request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let token = header.and_then(|header| bearer_token(header.to_str().ok()?));
    let settings = admin.decisions.settings();
    let Some(name) = token.and_then(|token| settings.admin_tokens.get(token)) else {
        let problem = "send one of the tokens in `admin.tokens`: `Authorization: Bearer <token>`";
        return Problem::from(ApiError::unauthenticated(problem)).into_response();
    };
    request.extensions_mut().insert(AdminName(name.clone()));
    next.run(request).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetBody {
    key: String,
    tenant: Option<String>,
    rate: Option<u32>,
    interval: Option<String>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
}

const RESET_FIELDS: [&str; 6] = ["key", "tenant", "rate", "interval", "burst", "algorithm"];

/// Resets the counts of a key under its limits, or under the limit in the request.
async fn reset(
    State(admin): State<AdminState>,
    Extension(AdminName(name)): Extension<AdminName>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let reset: ResetBody = json::parse_object(&json::complete_body(body)?, &RESET_FIELDS)?;
    let interval = reset.interval.as_deref();
    let limits = parse_caller_limit(reset.rate, interval, reset.burst, reset.algorithm)?;
    let settings = admin.decisions.settings();
    let tenant = reset.tenant.as_deref();
    let subject = LimitSubject::Key {
        tenant: tenant
            .unwrap_or(settings.configured_limits.default_tenant.as_str())
            .to_owned(),
        key: reset.key.clone(),
    };
    let request = DecisionRequest {
        key: Some(reset.key),
        tenant: reset.tenant,
        limits,
        cost: 1,
    };
    run_to_completion(async move {
        let result = admin.decisions.reset(&request).await;
        let subject = subject.to_string();
        let limits = request.limits.as_ref().map(debug);
        match &result {
            Ok(()) => tracing::info!(admin = %name, subject, limits, "reset a count"),
            Err(error) if error.kind == ApiErrorKind::Unavailable => {
                tracing::warn!(
                    admin = %name,
                    subject,
                    limits,
                    "the store did not confirm a reset, and may have applied it"
                );
            }
            Err(_) => {}
        }
        Ok(result?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
struct Configuration {
    /// When the configuration in force was read, in seconds since the Unix epoch.
    since: u64,
    /// The reason why a later configuration was refused. `null` if the latest is in force.
    refused: Option<String>,
    /// Whether the last read of run-time limits failed, so that changes may be missing.
    outdated: bool,
}

async fn configuration(State(admin): State<AdminState>) -> impl IntoResponse {
    let last = admin.reload_status.last();
    let since = last.since.duration_since(SystemTime::UNIX_EPOCH);
    Json(Configuration {
        since: since.unwrap_or_default().as_secs(),
        refused: last.refused.clone(),
        outdated: admin.decisions.overrides().is_outdated(),
    })
}
