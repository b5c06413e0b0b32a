//! `If-Match`, `If-None-Match` and `ETag` (RFC 9110, section 13.1).

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::decide::Refusal;
use crate::limits::Condition;

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
