use std::fmt::{self, Write};

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::header::{GRPC_MESSAGE, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS, ResponseHeaders};
use super::number::number;
use super::rate_limit_headers::{RateLimitHeaders, retry_after, seconds};
use super::rejection_body::RejectionBody;
use super::settings::ResponseSettings;
use super::templates::{NO_STORE, PROBLEM_JSON, header_value};
use crate::identity::{IdentifyError, Identity};
use crate::limiter::Decision;

/// gRPC status codes: <https://grpc.io/docs/guides/status-codes/>.
const RESOURCE_EXHAUSTED: u8 = 8;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;

/// A request that is being rejected, for
/// [`RateLimitLayer::on_reject`](crate::RateLimitLayer::on_reject).
pub struct Rejection<'a> {
    pub(super) settings: &'a ResponseSettings,
    pub(super) reason: RejectionReason<'a>,
    pub(super) identity: Option<&'a Identity>,
    pub(super) parts: &'a Parts,
}

/// The reason why a request is rejected.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum RejectionReason<'a> {
    /// A limit was reached.
    Denied(&'a Decision<'a>),
    /// The store was unavailable, and the [`FailureStrategy`](crate::FailureStrategy) is `Closed`.
    Refused(&'a Decision<'a>),
    /// The request has no identity. The reason may name internals, so do not show it to clients.
    Unidentified(&'a IdentifyError),
}

impl<'a> RejectionReason<'a> {
    pub(super) fn of(decision: &'a Decision<'a>) -> Self {
        match decision.is_refused() {
            true => Self::Refused(decision),
            false => Self::Denied(decision),
        }
    }

    fn decision(self) -> Option<&'a Decision<'a>> {
        match self {
            Self::Denied(decision) | Self::Refused(decision) => Some(decision),
            Self::Unidentified(_) => None,
        }
    }
}

impl fmt::Debug for Rejection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("reason", &self.reason)
            .field("identity", &self.identity)
            .field("parts", self.parts)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl<'a> Rejection<'a> {
    /// Returns the reason of the rejection.
    pub fn reason(&self) -> RejectionReason<'a> {
        self.reason
    }

    /// Returns the decision, with the policies that denied the request and how long to wait, or `None` for
    /// a request without an identity.
    pub fn decision(&self) -> Option<&'a Decision<'a>> {
        self.reason.decision()
    }

    /// Returns the identity of the request's sender, if it has one.
    pub fn identity(&self) -> Option<&'a Identity> {
        self.identity
    }

    /// Returns the head of the request.
    pub fn parts(&self) -> &'a Parts {
        self.parts
    }

    /// Returns the status of the default response, unless the request is a gRPC call: 429, or for a refusal
    /// the [`refused_status`](crate::RateLimitLayer::refused_status); for a request without an identity the
    /// [`unidentified_status`](crate::RateLimitLayer::unidentified_status).
    pub fn status(&self) -> StatusCode {
        match self.decision() {
            Some(decision) => self.settings.status(decision),
            None => self.settings.unidentified_status,
        }
    }

    /// Returns the default response.
    ///
    /// Its body is an `application/problem+json` (RFC 9457) of a type that section 5 of
    /// draft-ietf-httpapi-ratelimit-headers-11 defines: `quota-exceeded`, with the names of the
    /// `violated-policies`, or `temporary-reduced-capacity` if the store is unavailable. A gRPC call (see
    /// [`grpc_responses`](crate::RateLimitLayer::grpc_responses)) gets the status `RESOURCE_EXHAUSTED`
    /// instead, with the pushback of gRFC A6; or `UNAVAILABLE`, if refusals have a status other than 429.
    ///
    /// The response to a request without an identity has a problem+json without a type, or `INTERNAL`. In
    /// debug builds it includes the reason.
    ///
    /// No header describes the length or the encoding of the body, so the body may be replaced.
    pub fn response(&self) -> Response<RejectionBody> {
        let decision = match self.reason {
            RejectionReason::Denied(decision) | RejectionReason::Refused(decision) => decision,
            RejectionReason::Unidentified(reason) => {
                return unidentified(self.settings, self.parts, reason);
            }
        };
        match self.grpc_content_type() {
            Some(content_type) => grpc_response(self.settings, decision, content_type),
            None => problem_response(self.status(), self.settings.body(decision)),
        }
    }

    fn grpc_content_type(&self) -> Option<HeaderValue> {
        grpc_content_type(self.settings, self.parts)
    }

    /// Returns the default response with all of its headers.
    pub(super) fn complete_response(&self) -> Response<RejectionBody> {
        if let Some(response) = self.response_from_template() {
            return response;
        }
        let mut response = self.response();
        self.complete(response.headers_mut());
        response
    }

    /// Returns the default response with all of its headers, if there is a template for it.
    fn response_from_template(&self) -> Option<Response<RejectionBody>> {
        let (settings, decision) = (self.settings, self.decision()?);
        let needs_other_headers = settings.headers != ResponseHeaders::default()
            || decision.is_degraded()
            || self.grpc_content_type().is_some();
        if needs_other_headers {
            return None;
        }
        let (template, retry_after) =
            (settings.templates.denial(decision)?, retry_after(decision)?);
        let reset = seconds(decision.reset_after());
        let mut response = Response::new(template.body.share());
        *response.status_mut() = self.status();
        *response.headers_mut() = template.headers(retry_after, decision.remaining(), reset);
        Some(response)
    }

    /// Adds the headers of every rejection to a default response or an application's response. The response
    /// to a request without an identity has none.
    pub(super) fn complete(&self, headers: &mut HeaderMap) {
        let (settings, Some(decision)) = (self.settings, self.decision()) else {
            return;
        };
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        if let Some(retry_after) = retry_after(decision) {
            headers.entry(RETRY_AFTER).or_insert(number(retry_after));
        }
        let templates = Some(&*settings.templates);
        RateLimitHeaders::new(decision, settings.headers, templates, false).write_to(headers);
    }
}

fn grpc_response(
    settings: &ResponseSettings,
    decision: &Decision<'_>,
    content_type: HeaderValue,
) -> Response<RejectionBody> {
    // Any other status of refusals is a server error.
    let mut response = match settings.status(decision) {
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

/// Returns the response to a request without an identity. Only a debug build includes the reason, which
/// may name internals.
fn unidentified(
    settings: &ResponseSettings,
    parts: &Parts,
    reason: &IdentifyError,
) -> Response<RejectionBody> {
    let reason = cfg!(debug_assertions).then(|| reason.to_string());
    if let Some(content_type) = grpc_content_type(settings, parts) {
        let message = match reason {
            Some(reason) => header_value(percent_encoded(&reason)),
            None => HeaderValue::from_static("the request could not be identified"),
        };
        return grpc(content_type, INTERNAL, message);
    }
    let status = settings.unidentified_status;
    let title = status.canonical_reason().unwrap_or("Error");
    let detail = reason.map(|reason| format!(r#","detail":{}"#, json_string(&reason)));
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{}{}}}"#,
        status.as_u16(),
        detail.unwrap_or_default(),
    );
    problem_response(status, body.into())
}

/// Formats a text as a JSON string (RFC 8259, section 7).
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

/// Formats a text as the value of `grpc-message`: percent-encoded UTF-8, as gRPC over HTTP/2 requires.
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

/// Returns a response with a problem+json body.
pub(super) fn problem_response(status: StatusCode, body: RejectionBody) -> Response<RejectionBody> {
    with_type(status, PROBLEM_JSON, body)
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

/// Returns a trailers-only response, as gRPC over HTTP/2 defines it. Generated clients treat a plain 429 as
/// UNAVAILABLE, and retry.
fn grpc(content_type: HeaderValue, code: u8, message: HeaderValue) -> Response<RejectionBody> {
    let mut response = with_type(StatusCode::OK, content_type, RejectionBody::default());
    let headers = response.headers_mut();
    headers.insert(GRPC_STATUS, u16::from(code).into());
    headers.insert(GRPC_MESSAGE, message);
    response
}

/// Returns the content type of a gRPC call, which its response has too, or `None` for any other request.
///
/// A gRPC call is a POST of `application/grpc`, with or without a message format (`+proto`), over HTTP/2 or
/// later; or of gRPC-Web's `application/grpc-web` or `application/grpc-web-text` over any version.
fn grpc_content_type(settings: &ResponseSettings, parts: &Parts) -> Option<HeaderValue> {
    if !settings.grpc_responses || parts.method != Method::POST {
        return None;
    }
    let content_type = parts.headers.get(CONTENT_TYPE)?;
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc")?;
    let (rest, is_web) = match rest.strip_prefix(b"-web") {
        Some(rest) => (rest.strip_prefix(b"-text").unwrap_or(rest), true),
        None => (rest, false),
    };
    let is_grpc = matches!(rest, [] | [b'+' | b';', ..]);
    (is_grpc && (is_web || parts.version >= Version::HTTP_2)).then(|| content_type.clone())
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
