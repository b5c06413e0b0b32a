use std::fmt;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::RejectionBody;
use super::config::Config;
use super::fixed::{Denial, NO_STORE, PROBLEM_JSON};
use super::header::{Announcement, GRPC_RETRY_PUSHBACK_MS, ResponseHeaders, seconds};
use super::number::lasting;
use crate::decision::Decision;

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
}

impl fmt::Debug for Rejection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("decision", self.decision)
            .field("parts", self.parts)
            .field("status", &self.status())
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
        self.config.status(self.decision)
    }

    /// The response that is sent unless there is another.
    ///
    /// `application/problem+json` (RFC 9457) of the types that section 5 of
    /// draft-ietf-httpapi-ratelimit-headers-11 defines: `quota-exceeded`, with the names of the
    /// `violated-policies`, or `temporary-reduced-capacity` where the store was away. A gRPC
    /// request gets the status `RESOURCE_EXHAUSTED` instead, with the pushback of gRFC A6; or
    /// `UNAVAILABLE`, if refusals have a status other than 429.
    pub fn response(&self) -> Response<Bytes> {
        response(self.config, self.decision, &self.parts.headers).map(Bytes::from)
    }
}

fn response(
    config: &Config,
    decision: &Decision<'_>,
    request: &HeaderMap,
) -> Response<RejectionBody> {
    match grpc_content_type(request) {
        Some(content_type) => grpc_response(config, decision, content_type),
        None => {
            let body = config.rejection_body(decision);
            with_type(config.status(decision), PROBLEM_JSON, body)
        }
    }
}

/// The response that is sent unless there is another, with all of its headers.
pub(super) fn complete_response(
    config: &Config,
    decision: &Decision<'_>,
    request: &HeaderMap,
) -> Response<RejectionBody> {
    let Some((denial, retry_after)) = usual_denial(config, decision, request) else {
        let mut response = response(config, decision, request);
        complete(config, decision, response.headers_mut());
        return response;
    };
    let mut response = Response::new(denial.body.clone());
    *response.status_mut() = config.status(decision);
    *response.headers_mut() = denial.headers.with([
        retry_after,
        decision.remaining().into(),
        seconds(decision.reset_after()),
    ]);
    response
}

/// Where nothing is special, what is made already, and `Retry-After`.
fn usual_denial<'a>(
    config: &'a Config,
    decision: &Decision<'_>,
    request: &HeaderMap,
) -> Option<(&'a Denial, u64)> {
    let is_special = config.headers != ResponseHeaders::default()
        || decision.is_degraded()
        || grpc_content_type(request).is_some();
    if is_special {
        return None;
    }
    Some((config.fixed.denial(decision)?, retry_after(decision)?))
}

fn grpc_response(
    config: &Config,
    decision: &Decision<'_>,
    content_type: HeaderValue,
) -> Response<RejectionBody> {
    // Any other status configured for refusals says that the server is at fault.
    let mut response = match config.status(decision) {
        StatusCode::TOO_MANY_REQUESTS => {
            grpc(content_type, RESOURCE_EXHAUSTED, "rate limit exceeded")
        }
        _ => grpc(content_type, UNAVAILABLE, "the rate limiter is unavailable"),
    };
    let pushback = match decision.retry_after() {
        Some(wait) => HeaderValue::from(wait.as_nanos().div_ceil(1_000_000) as u64),
        None => HeaderValue::from_static("-1"),
    };
    let headers = response.headers_mut();
    headers.insert(GRPC_RETRY_PUSHBACK_MS, pushback);
    response
}

/// Adds what every rejection says, whoever made it.
pub(super) fn complete(config: &Config, decision: &Decision<'_>, headers: &mut HeaderMap) {
    // Unless it says so already.
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
    if let Some(retry_after) = retry_after(decision) {
        headers.entry(RETRY_AFTER).or_insert(lasting(retry_after));
    }
    Announcement::new(decision, config.headers, &config.fixed, false).write_to(headers);
}

/// How many seconds to wait.
fn retry_after(decision: &Decision<'_>) -> Option<u64> {
    let wait = decision.retry_after()?;
    Some(seconds(wait).max(1))
}

/// The response to a request whose identity cannot be told. The reason is not the client's to know.
pub(super) fn unidentified(headers: &HeaderMap, status: StatusCode) -> Response<RejectionBody> {
    if let Some(content_type) = grpc_content_type(headers) {
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
    with_type(status, PROBLEM_JSON, Bytes::from(body).into())
}

fn with_type(
    status: StatusCode,
    content_type: HeaderValue,
    body: RejectionBody,
) -> Response<RejectionBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A response of trailers alone, as gRPC over HTTP/2 has it: generated clients would take a bare
/// 429 for UNAVAILABLE and try again.
fn grpc(content_type: HeaderValue, code: u8, message: &'static str) -> Response<RejectionBody> {
    let mut response = with_type(StatusCode::OK, content_type, RejectionBody::default());
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
fn grpc_content_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let content_type = headers.get(CONTENT_TYPE)?;
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc")?;
    matches!(rest, [] | [b'+' | b'-' | b';', ..]).then(|| content_type.clone())
}
