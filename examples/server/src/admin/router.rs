use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::{limits, reset};
use crate::authentication::bearer;
use crate::decide::{Gate, Refusal};
use crate::http::{Problem, guarded};
use crate::serve::Reloads;

/// What the handlers need.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) gate: Gate,
    pub(crate) reloads: Reloads,
}

pub(crate) fn router(admin: Admin) -> Router {
    let limit = || get(limits::get).put(limits::put).delete(limits::delete);
    let routes = Router::new()
        .route("/limits", get(limits::list))
        .route("/limits/{kind}/{name}", limit())
        .route("/limits/{kind}/{name}/{key}", limit())
        .route("/reset", post(reset::reset))
        .route("/configuration", get(configuration));
    guarded(routes)
        // Around everything, so that strangers learn nothing.
        .layer(from_fn_with_state(admin.clone(), authenticate))
        .with_state(admin)
}

async fn authenticate(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let token = header.and_then(|header| bearer(header.to_str().ok()?));
    let rules = admin.gate.rules();
    if token.is_some_and(|token| rules.admin_tokens.get(token).is_some()) {
        return next.run(request).await;
    }
    let problem = "show one of the tokens in `admin.tokens`: `Authorization: Bearer <token>`";
    Problem::from(Refusal::unauthenticated(problem)).into_response()
}

#[derive(Serialize)]
struct Configuration {
    /// When the configuration in force was read, in seconds since the Unix epoch.
    since: u64,
    /// Why a later one was refused; none if the last one is in force.
    refused: Option<String>,
    /// Whether changes of run-time limits may have been missed.
    outdated: bool,
}

async fn configuration(State(admin): State<Admin>) -> impl IntoResponse {
    let last = admin.reloads.last();
    let since = last.since.duration_since(SystemTime::UNIX_EPOCH);
    Json(Configuration {
        since: since.unwrap_or_default().as_secs(),
        refused: last.refused.clone(),
        outdated: admin.gate.keeper().is_outdated(),
    })
}
