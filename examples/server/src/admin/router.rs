use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::{limits, list, reset};
use crate::authentication::bearer;
use crate::decide::{Gate, Refusal};
use crate::http::{Problem, guarded};
use crate::serve::Reloads;

/// The state of the handlers.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) gate: Gate,
    pub(crate) reloads: Reloads,
}

/// The name of the admin token that a request shows.
#[derive(Clone, Debug)]
pub(super) struct AdminName(pub(super) String);

pub(crate) fn router(admin: Admin) -> Router {
    let limit = || get(limits::get).put(limits::put).delete(limits::delete);
    let routes = Router::new()
        .route("/limits", get(list::list))
        .route("/limits/{kind}/{name}", limit())
        .route("/limits/{kind}/{name}/{key}", limit())
        .route("/reset", post(reset::reset))
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

/// Runs a change to its end even if the client closes the connection, so that every change is logged.
pub(super) async fn uncancelled<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(change).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a change through the admin API did not end");
        let problem = "the change may or may not be done: see the server's log";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, problem))
    })
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
