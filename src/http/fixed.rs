//! What is the same in many responses: made once, and shared.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::body::RejectionBody;
use super::header::X_RATE_LIMIT;
use super::number::number;
use super::prepared::Prepared;
use crate::decision::Decision;
use crate::quota::{Limits, Policy};

/// What responses say of a layer's limits, whatever is decided.
pub(super) struct Fixed {
    limits: Limits,
    /// Of each policy.
    denials: Box<[Denial]>,
    ietf: HeaderValue,
}

/// A rejection by one policy alone, as it usually is.
pub(super) struct Denial {
    headers: Prepared,
    pub(super) body: RejectionBody,
}

/// A header that each copy of a denial's headers removes, so that the copy has spare capacity for the
/// server's `Content-Length`. Without it the server's insert allocates twice (test: `allocations`),
/// since the clone of a `HeaderMap` has no capacity but for its entries. A standard name is cheap to
/// hash, and the last entry is cheap to remove.
const PLACEHOLDER: HeaderName = CONTENT_LENGTH;

pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

impl Denial {
    fn new(policy: &Policy) -> Self {
        let [limit, remaining, reset] = X_RATE_LIMIT;
        let body = quota_exceeded([policy]);
        let capacity = policy.quota().capacity();
        let headers = [
            (CONTENT_TYPE, Some(PROBLEM_JSON)),
            (CACHE_CONTROL, Some(NO_STORE)),
            (RETRY_AFTER, None),
            (limit, Some(number(capacity.into()))),
            (remaining, None),
            (reset, None),
            (PLACEHOLDER, Some(number(0))),
        ];
        Self {
            headers: Prepared::new(headers),
            body,
        }
    }

    /// The headers, completed with `Retry-After`, what is left, and when all of it is back.
    pub(super) fn headers(&self, numbers: [u64; 3]) -> HeaderMap {
        let mut headers = self.headers.with(numbers);
        headers.remove(PLACEHOLDER);
        headers
    }
}

impl Fixed {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            denials: limits.policies().iter().map(Denial::new).collect(),
            ietf: ietf(&limits),
            limits,
        }
    }

    /// The layer's own limits.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The value of `RateLimit-Policy`.
    pub(super) fn ietf(&self, decision: &Decision<'_>) -> HeaderValue {
        match decision.limits().ptr_eq(&self.limits) {
            true => self.ietf.clone(),
            false => ietf(decision.limits()),
        }
    }

    /// The rejection, if it is by one of these policies alone.
    pub(super) fn denial(&self, decision: &Decision<'_>) -> Option<&Denial> {
        let is_alone = decision.violated().nth(1).is_none();
        // It is the binding one then.
        (is_alone && decision.limits().ptr_eq(&self.limits))
            .then(|| &self.denials[decision.binding()])
    }

    /// The body of a rejection, where limits were reached.
    pub(super) fn quota_exceeded(&self, decision: &Decision<'_>) -> RejectionBody {
        match self.denial(decision) {
            Some(denial) => denial.body.clone(),
            None => quota_exceeded(decision.violated()),
        }
    }
}

fn ietf(limits: &Limits) -> HeaderValue {
    let mut policies = String::new();
    for policy in limits.policies() {
        let separator = if policies.is_empty() { "" } else { ", " };
        let (name, quota) = (policy.name(), policy.quota());
        // Writing to a String cannot fail.
        let _ = write!(policies, "{separator}\"{name}\";q={}", quota.capacity());
        if let Some(window) = quota.window_seconds() {
            let _ = write!(policies, ";w={window}");
        }
    }
    header_value(policies)
}

fn quota_exceeded<'a>(violated: impl IntoIterator<Item = &'a Policy>) -> RejectionBody {
    // Checked when the limits were made, a name needs no escaping.
    let names: Vec<_> = violated
        .into_iter()
        .map(|policy| format!("\"{}\"", policy.name()))
        .collect();
    problem(
        "quota-exceeded",
        "Request cannot be satisfied as assigned quota has been exceeded",
        StatusCode::TOO_MANY_REQUESTS,
        &format!(r#","violated-policies":[{}]"#, names.join(",")),
    )
}

/// The body of a rejection, where the store was away.
pub(super) fn reduced_capacity(status: StatusCode) -> RejectionBody {
    problem(
        "temporary-reduced-capacity",
        "Request cannot be satisfied due to temporary server capacity constraints",
        status,
        "",
    )
}

fn problem(kind: &str, title: &str, status: StatusCode, more: &str) -> RejectionBody {
    let status = status.as_u16();
    let kind = format!("https://iana.org/assignments/http-problem-types#{kind}");
    let body = format!(r#"{{"type":"{kind}","title":"{title}","status":{status}{more}}}"#);
    Bytes::from(body).into()
}

/// Names of policies were checked when the limits were made, and the rest is ours.
pub(super) fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("checked names and numbers make a header value")
}
