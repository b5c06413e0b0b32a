//! The state of the handlers, and the parts of requests that several handlers read.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::configuration::ReloadStatus;
use crate::decision::DecisionService;
use crate::error::ApiError;
use crate::http::Problem;
use crate::limits::Condition;

/// The state of the handlers.
#[derive(Clone, Debug)]
pub(crate) struct AdminState {
    pub(crate) decisions: DecisionService,
    pub(crate) reload_status: ReloadStatus,
}

/// The name of the admin token of a request.
#[derive(Clone, Debug)]
pub(super) struct AdminName(pub(super) String);

/// Runs a change to its end even if the client closes the connection, so that every change is
/// logged.
pub(super) async fn run_to_completion<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(change).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a change through the admin API failed");
        let problem = "the change failed, and may have been applied: see the server's log";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, problem))
    })
}

/// Reads the condition of a write from `If-Match` and `If-None-Match` (RFC 9110, section 13.1).
pub(super) fn write_condition(headers: &HeaderMap) -> Result<Condition, ApiError> {
    match (
        header(headers, &IF_MATCH)?,
        header(headers, &IF_NONE_MATCH)?,
    ) {
        (None, None) => Ok(Condition::None),
        (Some("*"), None) => Ok(Condition::Present),
        (Some(tag), None) => {
            let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let version = version.filter(|version| !version.contains('"'));
            let version = version.ok_or_else(|| {
                let problem = "must be `*`, or one ETag in its quotes";
                ApiError::invalid("If-Match", problem)
            })?;
            Ok(Condition::Version(version.to_owned()))
        }
        (None, Some("*")) => Ok(Condition::Absent),
        (None, Some(_)) => Err(ApiError::invalid("If-None-Match", "must be `*`")),
        (Some(_), Some(_)) => {
            let problem = "cannot be together with If-Match";
            Err(ApiError::invalid("If-None-Match", problem))
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str().ok().map(str::trim);
    let invalid = || ApiError::invalid(name.as_str(), "is not an ETag");
    text.map(Some).ok_or_else(invalid)
}

/// Returns the `ETag` of a version.
pub(super) fn etag(version: &str) -> HeaderValue {
    let tag = HeaderValue::from_str(&format!("\"{version}\""));
    // Versions consist of digits, letters and a dash, unless another program wrote them to Redis.
    tag.unwrap_or(HeaderValue::from_static("\"\""))
}

/// The parameters of a query.
pub(super) type QueryPairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Returns the values of the known parameters, or an error for any other parameter.
pub(super) fn parameters<const N: usize>(
    pairs: QueryPairs,
    known: [&str; N],
) -> Result<[Option<String>; N], ApiError> {
    let Query(pairs) = pairs.map_err(|error| ApiError::invalid_request(error.body_text()))?;
    let mut values = [const { None }; N];
    for (name, value) in pairs {
        let Some(index) = known.iter().position(|known| *known == name) else {
            let known = known.join(", ");
            let problem = format!("there is no such parameter; there are: {known}");
            return Err(ApiError::invalid(&name, problem));
        };
        if values[index].replace(value).is_some() {
            return Err(ApiError::invalid(&name, "is there twice"));
        }
    }
    Ok(values)
}
