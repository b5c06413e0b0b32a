use std::fmt::{self, Write};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::body::RejectionBody;
use super::config::Config;
use super::fixed::{Denial, NO_STORE, PROBLEM_JSON, header_value};
use super::header::{
    Announcement, GRPC_MESSAGE, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS, ResponseHeaders, retry_after,
    seconds,
};
use super::number::lasting;
use crate::decision::Decision;
use crate::identity::IdentifyError;

/// The parts of a request's head from which a rejection follows.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    method: &'a Method,
    version: Version,
    headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    pub(super) fn of_request<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            version: request.version(),
            headers: request.headers(),
        }
    }

    pub(super) fn of_parts(method: &'a Method, version: Version, headers: &'a HeaderMap) -> Self {
        Self {
            method,
            version,
            headers,
        }
    }
}

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
    /// `violated-policies`, or `temporary-reduced-capacity` where the store was away. A gRPC call (see
    /// [`grpc_responses`](crate::RateLimitLayer::grpc_responses)) gets the status
    /// `RESOURCE_EXHAUSTED` instead, with the pushback of gRFC A6; or `UNAVAILABLE`, if refusals have
    /// a status other than 429.
    ///
    /// No header describes the length or the coding of the body, so another body may take its place.
    pub fn response(&self) -> Response<Bytes> {
        let parts = self.parts;
        let head = Head::of_parts(&parts.method, parts.version, &parts.headers);
        response(self.config, self.decision, head).map(Bytes::from)
    }
}

fn response(
    config: &Config,
    decision: &Decision<'_>,
    request: Head<'_>,
) -> Response<RejectionBody> {
    match grpc_content_type(config, request) {
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
    request: Head<'_>,
) -> Response<RejectionBody> {
    let Some((denial, retry_after)) = usual_denial(config, decision, request) else {
        let mut response = response(config, decision, request);
        complete(config, decision, response.headers_mut());
        return response;
    };
    let mut response = Response::new(denial.body.clone());
    *response.status_mut() = config.status(decision);
    *response.headers_mut() = denial.headers([
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
    request: Head<'_>,
) -> Option<(&'a Denial, u64)> {
    let is_special = config.headers != ResponseHeaders::default()
        || decision.is_degraded()
        || grpc_content_type(config, request).is_some();
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
            let message = HeaderValue::from_static("rate limit exceeded");
            grpc(content_type, RESOURCE_EXHAUSTED, message)
        }
        _ => {
            let message = HeaderValue::from_static("the rate limiter is unavailable");
            grpc(content_type, UNAVAILABLE, message)
        }
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

/// The response to a request without an identity. Only a debug build tells the client why: the
/// reason may name internals.
pub(super) fn unidentified(
    config: &Config,
    request: Head<'_>,
    reason: &IdentifyError,
) -> Response<RejectionBody> {
    let reason = cfg!(debug_assertions).then(|| reason.to_string());
    if let Some(content_type) = grpc_content_type(config, request) {
        let message = match reason {
            Some(reason) => header_value(percent_encoded(&reason)),
            None => HeaderValue::from_static("the request could not be identified"),
        };
        return grpc(content_type, INTERNAL, message);
    }
    let status = config.unidentified_status;
    let title = status.canonical_reason().unwrap_or("Error");
    let detail = reason.map(|reason| format!(r#","detail":{}"#, json_string(&reason)));
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{}{}}}"#,
        status.as_u16(),
        detail.unwrap_or_default(),
    );
    with_type(status, PROBLEM_JSON, Bytes::from(body).into())
}

/// A text as a JSON string (RFC 8259, section 7).
fn json_string(text: &str) -> String {
    let mut json = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            // Writing to a String cannot fail.
            '\0'..=' ' if character != ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(character));
            }
            _ => json.push(character),
        }
    }
    json.push('"');
    json
}

/// A text as the value of `grpc-message`: percent-encoded UTF-8, as gRPC over HTTP/2 asks.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'%' | 0..b' ' | 0x7f.. => {
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(byte.into()),
        }
    }
    encoded
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

/// A response of trailers alone, as gRPC over HTTP/2 has it: generated clients take a bare 429 for
/// UNAVAILABLE and retry.
fn grpc(content_type: HeaderValue, code: u8, message: HeaderValue) -> Response<RejectionBody> {
    let mut response = with_type(StatusCode::OK, content_type, RejectionBody::default());
    let headers = response.headers_mut();
    headers.insert(GRPC_STATUS, u16::from(code).into());
    headers.insert(GRPC_MESSAGE, message);
    response
}

/// The content type with which a gRPC call is answered: its own. `None` for any other request.
///
/// A gRPC call is a POST of `application/grpc`, perhaps with a message format (`+proto`), over HTTP/2
/// or later; or of gRPC-Web's `application/grpc-web` or `application/grpc-web-text` over any version.
fn grpc_content_type(config: &Config, request: Head<'_>) -> Option<HeaderValue> {
    if !config.grpc_responses || request.method != Method::POST {
        return None;
    }
    let content_type = request.headers.get(CONTENT_TYPE)?;
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc")?;
    let (rest, is_web) = match rest.strip_prefix(b"-web") {
        Some(rest) => (rest.strip_prefix(b"-text").unwrap_or(rest), true),
        None => (rest, false),
    };
    let is_grpc = matches!(rest, [] | [b'+' | b';', ..]);
    (is_grpc && (is_web || request.version >= Version::HTTP_2)).then(|| content_type.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_escaped_for_json_and_grpc() {
        let reason = "no \"key\" \\ \n 100 % é";
        assert_eq!(json_string(reason), r#""no \"key\" \\ \u000a 100 % é""#);
        assert_eq!(percent_encoded(reason), r#"no "key" \ %0A 100 %25 %C3%A9"#);
    }
}
