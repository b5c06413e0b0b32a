//! `/limits`: list, get, put and delete.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tollgate::Limits;

use super::request::{Admin, AdminName, Pairs, condition, etag, parameters, uncancelled};
use crate::error::Refusal;
use crate::http::{Problem, json};
use crate::limits::{Condition, Override, Subject, WriteError};

/// A limit in force, and its source.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    subject: String,
    limits: Limits,
    source: &'static str,
    /// Only a limit that was set at run time has a version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    limits: Limits,
}

impl Item {
    pub(super) fn at_run_time(subject: String, entry: Override) -> Self {
        Self {
            subject,
            limits: entry.limits,
            source: "runtime",
            version: Some(entry.version),
            warning: None,
        }
    }

    pub(super) fn configured(subject: String, limits: &Limits) -> Self {
        Self {
            subject,
            limits: limits.clone(),
            source: "configuration",
            version: None,
            warning: None,
        }
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
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

pub(super) async fn get(
    State(admin): State<Admin>,
    subject: Result<Path<Vec<(String, String)>>, PathRejection>,
) -> Result<Item, Problem> {
    let subject = self::subject(subject)?;
    let overrides = admin.gate.overrides();
    // The caller may be about to change what another replica has just written.
    overrides.refresh().await;
    let text = subject.to_string();
    if let Some(entry) = overrides.get(&subject) {
        return Ok(Item::at_run_time(text, entry));
    }
    match admin.gate.rules().catalog.get(&subject) {
        Some(limits) => Ok(Item::configured(text, limits)),
        None => {
            let problem = format!("{text} has no limit of its own");
            Err(Problem::new(StatusCode::NOT_FOUND, problem))
        }
    }
}

pub(super) async fn put(
    State(admin): State<Admin>,
    Extension(AdminName(name)): Extension<AdminName>,
    headers: HeaderMap,
    subject: Result<Path<Vec<(String, String)>>, PathRejection>,
    pairs: Pairs,
    body: Result<Bytes, BytesRejection>,
) -> Result<Item, Problem> {
    let subject = self::subject(subject)?;
    let condition = condition(&headers)?;
    let is_strict = is_strict(pairs)?;
    let Put { limits } = json::read(&json::received(body)?, &["limits"])?;
    let unknown = admin.gate.rules().catalog.unknown(&subject);
    if is_strict && let Some(problem) = unknown {
        return Err(Problem::new(StatusCode::NOT_FOUND, problem));
    }
    let text = subject.to_string();
    let version = write(admin, name, subject, Some(limits.clone()), condition).await?;
    Ok(Item {
        warning: unknown,
        ..Item::at_run_time(text, Override { limits, version })
    })
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Extension(AdminName(name)): Extension<AdminName>,
    headers: HeaderMap,
    subject: Result<Path<Vec<(String, String)>>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let subject = self::subject(subject)?;
    let condition = condition(&headers)?;
    write(admin, name, subject, None, condition).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes and logs a change.
async fn write(
    admin: Admin,
    name: String,
    subject: Subject,
    limits: Option<Limits>,
    condition: Condition,
) -> Result<String, Problem> {
    uncancelled(async move {
        let overrides = admin.gate.overrides();
        let written = overrides.write(&subject, limits.as_ref(), &condition).await;
        let version = written.map_err(|error| not_written(error, &name, &subject))?;
        let subject = subject.to_string();
        match limits {
            Some(limits) => {
                tracing::info!(admin = %name, subject, ?limits, version, "set a limit");
            }
            None => tracing::info!(admin = %name, subject, version, "deleted a limit"),
        }
        Ok(version)
    })
    .await
}

/// Whether a subject that the configuration does not know is refused.
fn is_strict(pairs: Pairs) -> Result<bool, Refusal> {
    let [strict] = parameters(pairs, ["strict"])?;
    match strict.as_deref() {
        None | Some("false") => Ok(false),
        Some("" | "true") => Ok(true),
        Some(_) => Err(Refusal::invalid("strict", "must be true or false")),
    }
}

fn not_written(error: WriteError, admin: &str, subject: &Subject) -> Problem {
    match error {
        WriteError::Conflict => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            format!("{subject} was changed by another write: get it, then decide again"),
        ),
        WriteError::Missing => Problem::new(
            StatusCode::NOT_FOUND,
            format!("{subject} has no limit that was set at run time"),
        ),
        WriteError::Unavailable(error) => {
            let subject = subject.to_string();
            tracing::warn!(%admin, subject, %error, "a change of a limit may or may not be done");
            let problem = "Redis did not confirm the change, which may be done: get the limit, \
                           then try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, problem)
        }
    }
}

/// The subject that a path names.
fn subject(path: Result<Path<Vec<(String, String)>>, PathRejection>) -> Result<Subject, Refusal> {
    let Path(parts) = path.map_err(|_| Refusal::unreadable("the path is not UTF-8"))?;
    let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
    parts.join("/").parse().map_err(Refusal::unreadable)
}

/// The size of a page, unless `limit` asks for a smaller one.
const LARGEST_PAGE: usize = 1_000;

/// The beginnings of all subjects.
const KINDS: [&str; 3] = ["keys/", "tenants/", "tiers/"];

/// A part of all limits in force, in the order of their subjects' text.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    limits: Vec<Item>,
    /// The parameter `after` of the next page; absent from the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which limits a page contains.
struct Selection {
    prefix: String,
    after: Option<String>,
    count: usize,
}

/// Lists limits in force: overrides, and configured limits that have no override.
pub(super) async fn list(State(admin): State<Admin>, pairs: Pairs) -> Result<Json<Page>, Problem> {
    let selection = Selection::read(pairs)?;
    Ok(Json(selection.page(&admin)))
}

impl Selection {
    fn read(pairs: Pairs) -> Result<Self, Refusal> {
        let [prefix, limit, after] = parameters(pairs, ["prefix", "limit", "after"])?;
        let prefix = prefix.unwrap_or_default();
        let can_begin = |kind: &str| kind.starts_with(&prefix) || prefix.starts_with(kind);
        if !KINDS.into_iter().any(can_begin) {
            let kinds = KINDS.join(", ");
            let problem = format!("{prefix:?} begins no subject: subjects begin with {kinds}");
            return Err(Refusal::invalid("prefix", problem));
        }
        let count = match limit {
            None => LARGEST_PAGE,
            Some(limit) => {
                let count = limit.parse().ok();
                let count = count.filter(|count| (1..=LARGEST_PAGE).contains(count));
                count.ok_or_else(|| {
                    let problem = format!("must be an integer from 1 to {LARGEST_PAGE}");
                    Refusal::invalid("limit", problem)
                })?
            }
        };
        if let Some(after) = &after {
            let subject = after.parse::<Subject>();
            subject.map_err(|error| Refusal::invalid("after", error))?;
        }
        Ok(Self {
            prefix,
            after,
            count,
        })
    }

    fn contains(&self, subject: &str) -> bool {
        subject.starts_with(&self.prefix)
            && self.after.as_deref().is_none_or(|after| subject > after)
    }

    fn page(&self, admin: &Admin) -> Page {
        let rules = admin.gate.rules();
        let configured = rules.catalog.entries();
        let configured = configured.map(|(subject, limits)| (subject.to_string(), limits));
        let mut items: BTreeMap<_, _> = configured
            .filter(|(subject, _)| self.contains(subject))
            .map(|(subject, limits)| (subject.clone(), Item::configured(subject, limits)))
            .collect();
        // One more than the page holds tells whether there is a next page.
        let overrides = admin.gate.overrides();
        for (subject, entry) in overrides.page(&self.prefix, self.after.as_deref(), self.count + 1)
        {
            items.insert(subject.clone(), Item::at_run_time(subject, entry));
        }
        let has_next = items.len() > self.count;
        let limits: Vec<_> = items.into_values().take(self.count).collect();
        let last = limits.last().filter(|_| has_next);
        Page {
            next: last.map(|last| last.subject().to_owned()),
            limits,
        }
    }
}
