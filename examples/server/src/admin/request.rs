//! The parts of requests that several handlers read: conditions and parameters.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::configuration::Reloads;
use crate::decision::Gate;
use crate::error::Refusal;
use crate::http::Problem;
use crate::limits::Condition;

/// The state of the handlers.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) gate: Gate,
    pub(crate) reloads: Reloads,
}

/// The name of the admin token that a request shows.
#[derive(Clone, Debug)]
pub(super) struct AdminName(pub(super) String);

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

/// Reads the condition of a write.
pub(super) fn condition(headers: &HeaderMap) -> Result<Condition, Refusal> {
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
                Refusal::invalid("If-Match", problem)
            })?;
            Ok(Condition::Version(version.to_owned()))
        }
        (None, Some("*")) => Ok(Condition::Absent),
        (None, Some(_)) => Err(Refusal::invalid("If-None-Match", "must be `*`")),
        (Some(_), Some(_)) => {
            let problem = "cannot be together with If-Match";
            Err(Refusal::invalid("If-None-Match", problem))
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str().ok().map(str::trim);
    let invalid = || Refusal::invalid(name.as_str(), "is not an ETag");
    text.map(Some).ok_or_else(invalid)
}

pub(super) fn etag(version: &str) -> HeaderValue {
    let tag = HeaderValue::from_str(&format!("\"{version}\""));
    // Versions consist of digits, letters and a dash, unless another program wrote them to Redis.
    tag.unwrap_or(HeaderValue::from_static("\"\""))
}

/// The parameters of a query, as an extractor returns them.
pub(super) type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Returns the values of these parameters, and refuses every other one.
pub(super) fn parameters<const N: usize>(
    pairs: Pairs,
    known: [&str; N],
) -> Result<[Option<String>; N], Refusal> {
    let Query(pairs) = pairs.map_err(|error| Refusal::unreadable(error.body_text()))?;
    let mut values = [const { None }; N];
    for (name, value) in pairs {
        let Some(index) = known.iter().position(|known| *known == name) else {
            let known = known.join(", ");
            let problem = format!("there is no such parameter; there are: {known}");
            return Err(Refusal::invalid(&name, problem));
        };
        if values[index].replace(value).is_some() {
            return Err(Refusal::invalid(&name, "is there twice"));
        }
    }
    Ok(values)
}
