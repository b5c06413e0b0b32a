//! `/limits`: list, get, put and delete.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tollgate::Limits;

use super::conditions::{condition, etag};
use super::router::Admin;
use crate::configuration::Rules;
use crate::decide::Refusal;
use crate::http::{Problem, body};
use crate::limits::{Entry, Runtime, Subject, WriteError};

/// A limit, and where it comes from.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    subject: String,
    limits: Limits,
    source: &'static str,
    /// What was set at run time has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

#[derive(Debug, Serialize)]
struct Items {
    limits: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    limits: Limits,
}

impl Item {
    fn at_run_time(subject: &Subject, entry: &Entry) -> Self {
        Self {
            subject: subject.to_string(),
            limits: entry.limits.clone(),
            source: "runtime",
            version: Some(entry.version.clone()),
        }
    }

    fn configured(subject: &Subject, limits: &Limits) -> Self {
        Self {
            subject: subject.to_string(),
            limits: limits.clone(),
            source: "configuration",
            version: None,
        }
    }
}

impl IntoResponse for Item {
    fn into_response(self) -> Response {
        let tag = self
            .version
            .as_deref()
            .map(|version| [(ETAG, etag(version))]);
        (tag, Json(self)).into_response()
    }
}

/// Every limit in force, those of the configuration too.
pub(super) async fn list(State(admin): State<Admin>) -> impl IntoResponse {
    let (rules, runtime) = (admin.gate.rules(), admin.gate.keeper().runtime());
    let mut items = BTreeMap::new();
    let catalog = &rules.catalog;
    for (tier, limits) in &catalog.tiers {
        let subject = Subject::Tier(tier.clone());
        items.insert(subject.clone(), Item::configured(&subject, limits));
    }
    for (name, tenant) in &catalog.tenants {
        if let Some(limits) = &tenant.limits {
            let subject = Subject::Tenant(name.clone());
            items.insert(subject.clone(), Item::configured(&subject, limits));
        }
        for (key, limits) in &tenant.keys {
            let (tenant, key) = (name.clone(), key.clone());
            let subject = Subject::Key { tenant, key };
            items.insert(subject.clone(), Item::configured(&subject, limits));
        }
    }
    for (subject, entry) in runtime.entries() {
        let item = Item::at_run_time(&subject, entry);
        items.insert(subject, item);
    }
    Json(Items {
        limits: items.into_values().collect(),
    })
}

pub(super) async fn get(
    State(admin): State<Admin>,
    subject: Result<Path<Vec<(String, String)>>, PathRejection>,
) -> Result<Item, Problem> {
    let subject = self::subject(subject)?;
    // Somebody may be about to change what another replica has just written.
    admin.gate.keeper().refresh().await;
    let (rules, runtime) = (admin.gate.rules(), admin.gate.keeper().runtime());
    let item = find(&rules, &runtime, &subject);
    item.ok_or_else(|| no_limit(&subject))
}

fn find(rules: &Rules, runtime: &Runtime, subject: &Subject) -> Option<Item> {
    if let Some(entry) = runtime.get(subject) {
        return Some(Item::at_run_time(subject, entry));
    }
    let catalog = &rules.catalog;
    let limits = match subject {
        Subject::Tier(tier) => catalog.tiers.get(tier),
        Subject::Tenant(tenant) => catalog.tenants.get(tenant)?.limits.as_ref(),
        Subject::Key { tenant, key } => catalog.tenants.get(tenant)?.keys.get(key),
    };
    limits.map(|limits| Item::configured(subject, limits))
}

fn no_limit(subject: &Subject) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("{subject} has no limit of its own"),
    )
}

pub(super) async fn put(
    State(admin): State<Admin>,
    headers: HeaderMap,
    subject: Result<Path<Vec<(String, String)>>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Item, Problem> {
    let subject = self::subject(subject)?;
    let condition = condition(&headers)?;
    let Put { limits } = body::read(&body::received(body)?, &["limits"])?;
    if let Subject::Tier(tier) = &subject
        && !admin.gate.rules().catalog.tiers.contains_key(tier)
    {
        let problem = "no tenant can be in it: add it to [tiers] in the configuration";
        return Err(Problem::new(StatusCode::NOT_FOUND, problem));
    }
    let keeper = admin.gate.keeper();
    let version = keeper.write(&subject, Some(&limits), &condition).await;
    let version = version.map_err(|error| unwritten(&error, &subject))?;
    tracing::info!(limit = %subject, ?limits, version, "a limit was set");
    Ok(Item::at_run_time(&subject, &Entry { limits, version }))
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    headers: HeaderMap,
    subject: Result<Path<Vec<(String, String)>>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let subject = self::subject(subject)?;
    let condition = condition(&headers)?;
    let deleted = admin.gate.keeper().write(&subject, None, &condition).await;
    deleted.map_err(|error| unwritten(&error, &subject))?;
    tracing::info!(limit = %subject, "a limit was deleted");
    Ok(StatusCode::NO_CONTENT)
}

fn unwritten(error: &WriteError, subject: &Subject) -> Problem {
    match error {
        WriteError::Conflict => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "somebody else has changed it: get it again, and decide anew",
        ),
        WriteError::Missing => Problem::new(
            StatusCode::NOT_FOUND,
            format!("{subject} has no limit that was set at run time"),
        ),
        WriteError::Unavailable(error) => {
            tracing::warn!(%error, "a limit could not be written");
            let problem = "the store did not answer that it did it: get it, and try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, problem)
        }
    }
}

/// Whom the path names.
fn subject(path: Result<Path<Vec<(String, String)>>, PathRejection>) -> Result<Subject, Refusal> {
    let Path(parts) = path.map_err(|_| Refusal::unreadable("the path is no UTF-8"))?;
    let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
    parts.join("/").parse().map_err(Refusal::unreadable)
}
