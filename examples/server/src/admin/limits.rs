//! `/limits`: lists, gets, sets and deletes limits.

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

use super::request::{
    AdminName, AdminState, QueryPairs, etag, parameters, run_to_completion, write_condition,
};
use crate::error::ApiError;
use crate::http::{Problem, json};
use crate::limits::{Condition, LimitSubject, Override, WriteError};

/// The segments of a path after `/limits`.
type SubjectPath = Result<Path<Vec<(String, String)>>, PathRejection>;

/// A limit in force, and its source.
#[derive(Debug, Serialize)]
pub(super) struct LimitEntry {
    subject: String,
    limits: Limits,
    source: &'static str,
    /// Present if the limit was set at run time.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody {
    limits: Limits,
}

impl LimitEntry {
    pub(super) fn from_override(subject: String, entry: Override) -> Self {
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

impl IntoResponse for LimitEntry {
    fn into_response(self) -> Response {
        let tag = self
            .version
            .as_deref()
            .map(|version| [(ETAG, etag(version))]);
        (tag, Json(self)).into_response()
    }
}

pub(super) async fn get(
    State(admin): State<AdminState>,
    path: SubjectPath,
) -> Result<LimitEntry, Problem> {
    let subject = parse_subject(path)?;
    let overrides = admin.decisions.overrides();
    // So that the response contains a write that another replica has just done.
    overrides.refresh().await;
    let text = subject.to_string();
    if let Some(entry) = overrides.get(&subject) {
        return Ok(LimitEntry::from_override(text, entry));
    }
    match admin.decisions.settings().configured_limits.get(&subject) {
        Some(limits) => Ok(LimitEntry::configured(text, limits)),
        None => {
            let problem = format!("{text} has no limit of its own");
            Err(Problem::new(StatusCode::NOT_FOUND, problem))
        }
    }
}

pub(super) async fn put(
    State(admin): State<AdminState>,
    Extension(AdminName(name)): Extension<AdminName>,
    headers: HeaderMap,
    path: SubjectPath,
    pairs: QueryPairs,
    body: Result<Bytes, BytesRejection>,
) -> Result<LimitEntry, Problem> {
    let subject = parse_subject(path)?;
    let condition = write_condition(&headers)?;
    let is_strict = is_strict(pairs)?;
    let PutBody { limits } = json::parse_object(&json::complete_body(body)?, &["limits"])?;
    let unknown = admin
        .decisions
        .settings()
        .configured_limits
        .unknown_subject(&subject);
    if is_strict && let Some(problem) = unknown {
        return Err(Problem::new(StatusCode::NOT_FOUND, problem));
    }
    let text = subject.to_string();
    let version = write(admin, name, subject, Some(limits.clone()), condition).await?;
    Ok(LimitEntry {
        warning: unknown,
        ..LimitEntry::from_override(text, Override { limits, version })
    })
}

pub(super) async fn delete(
    State(admin): State<AdminState>,
    Extension(AdminName(name)): Extension<AdminName>,
    headers: HeaderMap,
    path: SubjectPath,
) -> Result<StatusCode, Problem> {
    let subject = parse_subject(path)?;
    let condition = write_condition(&headers)?;
    write(admin, name, subject, None, condition).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes a change, and logs it.
async fn write(
    admin: AdminState,
    name: String,
    subject: LimitSubject,
    limits: Option<Limits>,
    condition: Condition,
) -> Result<String, Problem> {
    run_to_completion(async move {
        let overrides = admin.decisions.overrides();
        let written = overrides.write(&subject, limits.as_ref(), &condition).await;
        let version = written.map_err(|error| write_problem(error, &name, &subject))?;
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

/// Returns whether a write fails if the configuration does not contain the subject.
fn is_strict(pairs: QueryPairs) -> Result<bool, ApiError> {
    let [strict] = parameters(pairs, ["strict"])?;
    match strict.as_deref() {
        None | Some("false") => Ok(false),
        Some("" | "true") => Ok(true),
        Some(_) => Err(ApiError::invalid("strict", "must be true or false")),
    }
}

fn write_problem(error: WriteError, admin: &str, subject: &LimitSubject) -> Problem {
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
            tracing::warn!(
                %admin,
                subject,
                %error,
                "Redis did not confirm a change of a limit, and may have applied it"
            );
            let problem = "Redis did not confirm the change, and may have applied it: get the limit, \
                           then try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, problem)
        }
    }
}

/// Returns the subject in a path.
fn parse_subject(path: SubjectPath) -> Result<LimitSubject, ApiError> {
    let Path(parts) = path.map_err(|_| ApiError::invalid_request("the path is not UTF-8"))?;
    let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
    parts.join("/").parse().map_err(ApiError::invalid_request)
}

/// The maximum and default size of a page.
const MAX_PAGE_SIZE: usize = 1_000;

/// The prefixes of all subjects.
const SUBJECT_PREFIXES: [&str; 3] = ["keys/", "tenants/", "tiers/"];

/// A page of the limits in force, in the order of the subjects' text.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    limits: Vec<LimitEntry>,
    /// The parameter `after` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The parameters of a page.
struct PageQuery {
    prefix: String,
    after: Option<String>,
    count: usize,
}

/// Lists the limits in force: overrides, and configured limits without an override.
pub(super) async fn list(
    State(admin): State<AdminState>,
    pairs: QueryPairs,
) -> Result<Json<Page>, Problem> {
    let query = PageQuery::read(pairs)?;
    Ok(Json(query.page(&admin)))
}

impl PageQuery {
    fn read(pairs: QueryPairs) -> Result<Self, ApiError> {
        let [prefix, limit, after] = parameters(pairs, ["prefix", "limit", "after"])?;
        let prefix = prefix.unwrap_or_default();
        let can_begin = |kind: &str| kind.starts_with(&prefix) || prefix.starts_with(kind);
        if !SUBJECT_PREFIXES.into_iter().any(can_begin) {
            let kinds = SUBJECT_PREFIXES.join(", ");
            let problem = format!("{prefix:?} begins no subject: subjects begin with {kinds}");
            return Err(ApiError::invalid("prefix", problem));
        }
        let count = match limit {
            None => MAX_PAGE_SIZE,
            Some(limit) => {
                let count = limit.parse().ok();
                let count = count.filter(|count| (1..=MAX_PAGE_SIZE).contains(count));
                count.ok_or_else(|| {
                    let problem = format!("must be an integer from 1 to {MAX_PAGE_SIZE}");
                    ApiError::invalid("limit", problem)
                })?
            }
        };
        if let Some(after) = &after {
            let subject = after.parse::<LimitSubject>();
            subject.map_err(|error| ApiError::invalid("after", error))?;
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

    fn page(&self, admin: &AdminState) -> Page {
        let settings = admin.decisions.settings();
        let configured = settings.configured_limits.entries();
        let configured = configured.map(|(subject, limits)| (subject.to_string(), limits));
        let mut entries: BTreeMap<_, _> = configured
            .filter(|(subject, _)| self.contains(subject))
            .map(|(subject, limits)| (subject.clone(), LimitEntry::configured(subject, limits)))
            .collect();
        // One more than a page, to find out whether there is a next page.
        let overrides = admin.decisions.overrides();
        for (subject, entry) in overrides.page(&self.prefix, self.after.as_deref(), self.count + 1)
        {
            entries.insert(subject.clone(), LimitEntry::from_override(subject, entry));
        }
        let has_next = entries.len() > self.count;
        let limits: Vec<_> = entries.into_values().take(self.count).collect();
        let last = limits.last().filter(|_| has_next);
        Page {
            next: last.map(|last| last.subject().to_owned()),
            limits,
        }
    }
}
