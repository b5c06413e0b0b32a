//! Reads JSON bodies, and writes errors as problem+json (RFC 9457).

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Refusal, RefusalKind};

/// The body as bytes, if it came whole and is not too large.
pub(crate) fn received(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "the body did not come whole"),
    })
}

/// The object that the body is, with no fields but these.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], fields: &[&str]) -> Result<T, Refusal> {
    // serde also takes an array of a struct's fields, in their order.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let read = is_object.then(|| serde_json::from_slice(body).ok());
    // The reason is sought only once there is one.
    read.flatten().ok_or_else(|| explain::<T>(body, fields))
}

fn explain<T: DeserializeOwned>(body: &[u8], fields: &[&str]) -> Refusal {
    let object: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Refusal::unreadable("the body must be a JSON object"),
        Err(error) => return Refusal::unreadable(format!("the body is no JSON: {error}")),
    };
    if let Some(name) = object.keys().find(|name| !fields.contains(&name.as_str())) {
        let known = fields.join(", ");
        return Refusal::invalid(name, format!("there is no such field; there are: {known}"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Ok(_) => Refusal::unreadable("the body must be one JSON object and nothing else"),
        Err(error) => {
            let path = error.path().to_string();
            let problem = error.inner().to_string();
            // Where in the body it is says less than which field it is.
            let problem = problem.split(" at line ").next().unwrap_or_default();
            match path.as_str() {
                "." => match field_of(problem) {
                    Some((field, problem)) => Refusal::invalid(field, problem),
                    None => Refusal::unreadable(problem),
                },
                path => Refusal::invalid(path, problem),
            }
        }
    }
}

/// The field of an error that is of the whole object.
fn field_of(problem: &str) -> Option<(&str, &str)> {
    let said = [
        ("missing field `", "is missing"),
        ("duplicate field `", "is there twice"),
    ];
    said.into_iter().find_map(|(start, problem_of_field)| {
        let field = problem.strip_prefix(start)?.strip_suffix('`')?;
        Some((field, problem_of_field))
    })
}

/// An error for the client.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    field: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            field: None,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            RefusalKind::Forbidden => StatusCode::FORBIDDEN,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self {
            status,
            detail: refusal.sentence(),
            field: refusal.field,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            field: self.field.as_deref(),
        });
        let mut response = (self.status, body).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
