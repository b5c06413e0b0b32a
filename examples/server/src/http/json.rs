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

use crate::error::{ApiError, ApiErrorKind};

/// Returns the bytes of a body, or the problem if it is too large or incomplete.
pub(crate) fn complete_body(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "the body is incomplete"),
    })
}

/// Parses a JSON object, and returns an error that names the field for any other than `fields`.
pub(crate) fn parse_object<T: DeserializeOwned>(
    body: &[u8],
    fields: &[&str],
) -> Result<T, ApiError> {
    // serde would also accept an array of the struct's fields in their order.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let parsed = is_object.then(|| serde_json::from_slice(body).ok());
    // Only an error costs a second parse, which finds its field.
    parsed
        .flatten()
        .ok_or_else(|| parse_error::<T>(body, fields))
}

fn parse_error<T: DeserializeOwned>(body: &[u8], fields: &[&str]) -> ApiError {
    let object: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return ApiError::invalid_request("the body must be a JSON object"),
        Err(error) => return ApiError::invalid_request(format!("the body is not JSON: {error}")),
    };
    if let Some(name) = object.keys().find(|name| !fields.contains(&name.as_str())) {
        let known = fields.join(", ");
        return ApiError::invalid(name, format!("there is no such field; there are: {known}"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Ok(_) => ApiError::invalid_request("the body must be one JSON object and nothing else"),
        Err(error) => {
            let path = error.path().to_string();
            let problem = error.inner().to_string();
            // The error names the field, so its line and column are left out.
            let problem = problem.split(" at line ").next().unwrap_or_default();
            match path.as_str() {
                "." => match field_and_problem(problem) {
                    Some((field, problem)) => ApiError::invalid(field, problem),
                    None => ApiError::invalid_request(problem),
                },
                path => ApiError::invalid(path, problem),
            }
        }
    }
}

/// Splits serde's error for an object into the field and its problem.
fn field_and_problem(problem: &str) -> Option<(&str, &str)> {
    let errors = [
        ("missing field `", "is missing"),
        ("duplicate field `", "is there twice"),
    ];
    errors.into_iter().find_map(|(start, field_problem)| {
        let field = problem.strip_prefix(start)?.strip_suffix('`')?;
        Some((field, field_problem))
    })
}

/// An error response, as problem+json (RFC 9457).
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

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let status = match error.kind {
            ApiErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ApiErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ApiErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ApiErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self {
            status,
            detail: error.message(),
            field: error.field,
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
