use std::fmt;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::config::Config;
use super::fixed::number;
use super::header::{GRPC_RETRY_PUSHBACK_MS, seconds};
use crate::decision::Decision;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// gRPC status codes: <https://grpc.io/docs/guides/status-codes/>.
const RESOURCE_EXHAUSTED: u8 = 8;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;

/// A request that is about to be turned away, for
/// [`RateLimitLayer::on_reject`](crate::RateLimitLayer::on_reject).
pub struct Rejection<'a> {
    pub(super) config: &'a Config,
    pub(super) decision: &'a Decision<'a>,
    pub(super) parts: &'a Parts,
    pub(super) status: StatusCode,
}

impl fmt::Debug for Rejection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("decision", self.decision)
            .field("parts", self.parts)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl<'a> Rejection<'a> {
    /// Why: which policies denied, and how long to wait.
    ///
    /// [`is_refused`](Decision::is_refused) tells that the store was away and no limit reached.
    pub fn decision(&self) -> &'a Decision<'a> {
        self.decision
    }

    /// The head of the request.
    pub fn parts(&self) -> &'a Parts {
        self.parts
    }

    /// The status of the response, but for a gRPC request's: 429, or what
    /// [`refused_status`](crate::RateLimitLayer::refused_status) says.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The response that is sent unless there is another.
    ///
    /// `application/problem+json` (RFC 9457) of the types that section 5 of
    /// draft-ietf-httpapi-ratelimit-headers-11 defines: `quota-exceeded`, with the names of the
    /// `violated-policies`, or `temporary-reduced-capacity` where the store was away. A gRPC
    /// request gets the status `RESOURCE_EXHAUSTED` instead, with the pushback of gRFC A6; or
    /// `UNAVAILABLE`, if refusals have a status other than 429.
    pub fn response(&self) -> Response<Bytes> {
        if let Some(content_type) = grpc_content_type(self.parts) {
            return self.grpc_response(content_type);
        }
        let body = self.config.rejection_body(self.decision);
        with_type(self.status, PROBLEM_JSON, body)
    }

    fn grpc_response(&self, content_type: HeaderValue) -> Response<Bytes> {
        // Any other status configured for refusals says that the server is at fault.
        let response = match self.status {
            StatusCode::TOO_MANY_REQUESTS => {
                grpc(content_type, RESOURCE_EXHAUSTED, "rate limit exceeded")
            }
            _ => grpc(content_type, UNAVAILABLE, "the rate limiter is unavailable"),
        };
        let (mut parts, body) = response.into_parts();
        let pushback = match self.decision.retry_after() {
            Some(wait) => HeaderValue::from(wait.as_nanos().div_ceil(1_000_000) as u64),
            None => HeaderValue::from_static("-1"),
        };
        parts.headers.insert(GRPC_RETRY_PUSHBACK_MS, pushback);
        Response::from_parts(parts, body)
    }

    /// Adds what every rejection says, whoever made it, unless it says so already.
    pub(super) fn complete(&self, response: &mut Response<Bytes>) {
        let headers = response.headers_mut();
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        if let Some(wait) = self.decision.retry_after() {
            headers
                .entry(RETRY_AFTER)
                .or_insert_with(|| number(seconds(wait).max(1)));
        }
    }
}

/// The response to a request whose identity cannot be told. The reason is not the client's to know.
pub(super) fn unidentified(parts: &Parts, status: StatusCode) -> Response<Bytes> {
    if let Some(content_type) = grpc_content_type(parts) {
        return grpc(
            content_type,
            INTERNAL,
            "the request could not be identified",
        );
    }
    let title = status.canonical_reason().unwrap_or("Error");
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{}}}"#,
        status.as_u16()
    );
    with_type(status, PROBLEM_JSON, body.into())
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A response of trailers alone, as gRPC over HTTP/2 has it: generated clients would take a bare
/// 429 for UNAVAILABLE and try again.
fn grpc(content_type: HeaderValue, code: u8, message: &'static str) -> Response<Bytes> {
    let mut response = with_type(StatusCode::OK, content_type, Bytes::new());
    let headers = response.headers_mut();
    headers.insert(
        HeaderName::from_static("grpc-status"),
        u16::from(code).into(),
    );
    headers.insert(
        HeaderName::from_static("grpc-message"),
        HeaderValue::from_static(message),
    );
    response
}

/// The content type of a gRPC request, to be answered in kind: `application/grpc`, perhaps with a
/// message format (`+proto`), or for browsers (`-web`).
fn grpc_content_type(parts: &Parts) -> Option<HeaderValue> {
    let content_type = parts.headers.get(CONTENT_TYPE)?;
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc")?;
    matches!(rest, [] | [b'+' | b'-' | b';', ..]).then(|| content_type.clone())
}
