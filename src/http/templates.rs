use std::fmt::Write;

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::header::{X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET};
use super::header_template::HeaderTemplate;
use super::number::number;
use super::rejection_body::RejectionBody;
use crate::limiter::Decision;
use crate::quota::{Limits, Policy};

pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The parts of responses that depend on a layer's limits only, built once.
pub(super) struct Templates {
    limits: Limits,
    /// One for each policy.
    denials: Box<[DenialTemplate]>,
    ratelimit_policy: HeaderValue,
}

/// The default rejection of a request that a single policy denied, which is the common case.
pub(super) struct DenialTemplate {
    headers: HeaderTemplate,
    pub(super) body: RejectionBody,
}

/// A header that is removed from each copy of a denial's headers, so that the copy has spare capacity for
/// the server's `Content-Length`. The clone of a `HeaderMap` has no spare capacity, and the server's
/// insertion would allocate twice (test: `allocations`). A standard name is cheap to hash, and the last
/// entry is cheap to remove.
const PLACEHOLDER: HeaderName = CONTENT_LENGTH;

impl DenialTemplate {
    fn new(policy: &Policy) -> Self {
        let headers = [
            (CONTENT_TYPE, Some(PROBLEM_JSON)),
            (CACHE_CONTROL, Some(NO_STORE)),
            (RETRY_AFTER, None),
            (
                X_RATELIMIT_LIMIT,
                Some(number(policy.quota().capacity().into())),
            ),
            (X_RATELIMIT_REMAINING, None),
            (X_RATELIMIT_RESET, None),
            (PLACEHOLDER, Some(number(0))),
        ];
        Self {
            headers: HeaderTemplate::new(headers),
            body: quota_exceeded([policy]),
        }
    }

    /// Returns the headers of one rejection.
    pub(super) fn headers(&self, retry_after: u64, remaining: u32, reset: u64) -> HeaderMap {
        let mut headers = self.headers.fill([retry_after, remaining.into(), reset]);
        headers.remove(PLACEHOLDER);
        headers
    }
}

impl Templates {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            denials: limits.policies().iter().map(DenialTemplate::new).collect(),
            ratelimit_policy: ratelimit_policy(&limits),
            limits,
        }
    }

    /// Returns the layer's limits.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the value of `RateLimit-Policy` for a decision.
    pub(super) fn ratelimit_policy(&self, decision: &Decision<'_>) -> HeaderValue {
        match decision.limits().ptr_eq(&self.limits) {
            true => self.ratelimit_policy.clone(),
            false => ratelimit_policy(decision.limits()),
        }
    }

    /// Returns the template of a denial, if one of the layer's policies alone denied the request.
    pub(super) fn denial(&self, decision: &Decision<'_>) -> Option<&DenialTemplate> {
        let is_single = decision.violated().nth(1).is_none();
        let has_template = is_single && decision.limits().ptr_eq(&self.limits);
        // The only policy that denied is the binding one.
        has_template.then(|| &self.denials[decision.binding()])
    }

    /// Returns the body of a denial.
    pub(super) fn quota_exceeded(&self, decision: &Decision<'_>) -> RejectionBody {
        match self.denial(decision) {
            Some(denial) => denial.body.share(),
            None => quota_exceeded(decision.violated()),
        }
    }
}

/// Returns the value of `RateLimit-Policy`.
pub(super) fn ratelimit_policy(limits: &Limits) -> HeaderValue {
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

pub(super) fn quota_exceeded<'a>(violated: impl IntoIterator<Item = &'a Policy>) -> RejectionBody {
    // The names of policies have no characters that JSON escapes.
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

/// Returns the body of a refusal because the store is unavailable.
pub(super) fn reduced_capacity(status: StatusCode) -> RejectionBody {
    problem(
        "temporary-reduced-capacity",
        "Request cannot be satisfied due to temporary server capacity constraints",
        status,
        "",
    )
}

fn problem(kind: &str, title: &str, status: StatusCode, members: &str) -> RejectionBody {
    let status = status.as_u16();
    let kind = format!("https://iana.org/assignments/http-problem-types#{kind}");
    let body = format!(r#"{{"type":"{kind}","title":"{title}","status":{status}{members}}}"#);
    body.into()
}

/// Converts a text of policy names, numbers and constants into a header value.
pub(super) fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("policy names are valid in header values")
}
