use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::header::{
    GRPC_RETRY_PUSHBACK_MS, RATELIMIT, RATELIMIT_POLICY, ResponseHeaders, X_RATELIMIT_DEGRADED,
    X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET, X_RATELIMIT_SHADOW,
};
use super::number::number;
use super::templates::{Templates, header_value, ratelimit_policy};
use crate::limiter::Decision;

/// The headers with the numbers of one decision.
const NUMBERS: [HeaderName; 5] = [
    X_RATELIMIT_LIMIT,
    X_RATELIMIT_REMAINING,
    X_RATELIMIT_RESET,
    RATELIMIT_POLICY,
    RATELIMIT,
];

/// The headers that a layer adds to one response.
#[derive(Debug)]
pub(super) struct RateLimitHeaders {
    limit: u32,
    remaining: u32,
    reset: u64,
    x_rate_limit: bool,
    is_degraded: bool,
    /// `None` unless the layer is in shadow mode.
    shadow: Option<Shadow>,
    /// Boxed, since few layers send these headers.
    ietf: Option<Box<IetfHeaders>>,
}

#[derive(Debug)]
struct Shadow {
    would_have_denied: bool,
}

#[derive(Debug)]
struct IetfHeaders {
    policies: HeaderValue,
    limit: HeaderValue,
}

/// A response extension: the numbers in the headers are those of a layer in shadow mode.
#[derive(Clone)]
struct ShadowNumbers;

impl RateLimitHeaders {
    /// Creates the headers of a decision. `templates` are those of the layer that made it, if a layer did.
    #[inline]
    pub(super) fn new(
        decision: &Decision<'_>,
        headers: ResponseHeaders,
        templates: Option<&Templates>,
        is_shadow: bool,
    ) -> Self {
        let mut reset = decision.reset_after();
        if headers.x_rate_limit && headers.unix_time {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            reset = now.unwrap_or_default().saturating_add(reset);
        }
        let would_have_denied = !decision.is_allowed();
        let ietf = || Box::new(IetfHeaders::new(decision, templates));
        Self {
            limit: decision.capacity(),
            remaining: decision.remaining(),
            reset: seconds(reset),
            x_rate_limit: headers.x_rate_limit,
            is_degraded: decision.is_degraded(),
            shadow: is_shadow.then_some(Shadow { would_have_denied }),
            ietf: headers.ietf.then(ietf),
        }
    }

    /// Creates the headers for a request that a layer in shadow mode would have rejected, since it has no
    /// identity.
    pub(super) fn shadow_unidentified() -> Self {
        Self {
            limit: 0,
            remaining: 0,
            reset: 0,
            x_rate_limit: false,
            is_degraded: false,
            shadow: Some(Shadow {
                would_have_denied: true,
            }),
            ietf: None,
        }
    }

    /// Adds the headers to the response of the inner service. If an inner layer has added more restrictive
    /// numbers, those stay. The numbers of a layer in shadow mode always give way to those of an enforcing
    /// layer.
    pub(super) fn add_to<B>(self, response: &mut Response<B>) {
        let inner_is_shadow = response
            .extensions_mut()
            .remove::<ShadowNumbers>()
            .is_some();
        let keeps_inner = match remaining_in(response.headers()) {
            None => false,
            Some(_) if self.shadow.is_some() => true,
            Some(inner) => !inner_is_shadow && (is_denied(response) || inner <= self.remaining),
        };
        let are_shadow_numbers = match keeps_inner {
            true => inner_is_shadow,
            false => self.shadow.is_some(),
        };
        if are_shadow_numbers {
            response.extensions_mut().insert(ShadowNumbers);
        }
        match keeps_inner {
            true => self.add_flags(response.headers_mut()),
            false => self.write_to(response.headers_mut()),
        }
    }

    /// Writes the headers, and replaces existing ones.
    pub(super) fn write_to(self, headers: &mut HeaderMap) {
        // An inner layer may have sent its numbers in the other format.
        if (self.x_rate_limit || self.ietf.is_some()) && has_numbers(headers) {
            for name in NUMBERS {
                headers.remove(name);
            }
        }
        if self.x_rate_limit {
            headers.insert(X_RATELIMIT_LIMIT, number(self.limit.into()));
            headers.insert(X_RATELIMIT_REMAINING, number(self.remaining.into()));
            headers.insert(X_RATELIMIT_RESET, number(self.reset));
        }
        self.add_flags(headers);
        if let Some(ietf) = self.ietf {
            headers.insert(RATELIMIT_POLICY, ietf.policies);
            headers.insert(RATELIMIT, ietf.limit);
        }
    }

    fn add_flags(&self, headers: &mut HeaderMap) {
        const TRUE: HeaderValue = HeaderValue::from_static("true");
        if self.is_degraded {
            headers.insert(X_RATELIMIT_DEGRADED, TRUE);
        }
        let shadow = self.shadow.as_ref();
        if shadow.is_some_and(|shadow| shadow.would_have_denied) {
            headers.insert(X_RATELIMIT_SHADOW, TRUE);
        }
    }
}

/// Returns whether an inner layer denied the request.
fn is_denied<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    response.status() == StatusCode::TOO_MANY_REQUESTS
        || headers.contains_key(RETRY_AFTER)
        || headers.contains_key(GRPC_RETRY_PUSHBACK_MS)
}

/// Returns whether a response has any of [`NUMBERS`]. Responses have few headers, so comparing prefixes is
/// faster than five lookups.
fn has_numbers(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str().as_bytes();
        name.starts_with(b"x-ratelimit-") || name.starts_with(b"ratelimit")
    })
}

/// Returns the remaining cost in the headers of an inner layer.
fn remaining_in(headers: &HeaderMap) -> Option<u32> {
    if !has_numbers(headers) {
        return None;
    }
    if let Some(remaining) = headers.get(X_RATELIMIT_REMAINING) {
        return remaining.to_str().ok()?.parse().ok();
    }
    let limit = headers.get(RATELIMIT)?.to_str().ok()?;
    limit
        .split(';')
        .find_map(|parameter| parameter.strip_prefix("r="))?
        .parse()
        .ok()
}

impl IetfHeaders {
    fn new(decision: &Decision<'_>, templates: Option<&Templates>) -> Self {
        let (name, remaining) = (decision.policy().name(), decision.remaining());
        // `Retry-After` must not be earlier than the end of `t` (section 6), so on a denial they are equal.
        let denied = !decision.is_allowed();
        let wait = denied.then(|| retry_after(decision)).flatten();
        let time = wait.unwrap_or_else(|| seconds(decision.reset_after()));
        Self {
            policies: match templates {
                Some(templates) => templates.ratelimit_policy(decision),
                None => ratelimit_policy(decision.limits()),
            },
            limit: header_value(format!("\"{name}\";r={remaining};t={time}")),
        }
    }
}

impl Decision<'_> {
    /// Returns the headers that a layer adds to its responses by default, and `Retry-After` if the decision
    /// is not allowed. [`ResponseHeaders::write`] writes other sets.
    ///
    /// ```
    /// use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let limiter = Limiter::from(LocalStore::new());
    /// let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_hour(3)));
    /// let headers = limiter.check(&Check::new(&alice, &limits)).await.headers();
    /// assert_eq!(headers["x-ratelimit-remaining"], "2");
    /// # }
    /// ```
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        ResponseHeaders::default().write(self, &mut headers);
        headers
    }
}

impl ResponseHeaders {
    /// Writes these headers of a decision, and `Retry-After` if the decision is not allowed. Replaces the
    /// numbers of another decision.
    pub fn write(self, decision: &Decision<'_>, headers: &mut HeaderMap) {
        RateLimitHeaders::new(decision, self, None, false).write_to(headers);
        if decision.is_allowed() {
            return;
        }
        match retry_after(decision) {
            Some(wait) => drop(headers.insert(RETRY_AFTER, number(wait))),
            None => drop(headers.remove(RETRY_AFTER)),
        }
    }
}

/// Returns the value of `Retry-After`, or `None` if the request can never be allowed.
pub(super) fn retry_after(decision: &Decision<'_>) -> Option<u64> {
    let wait = decision.retry_after()?;
    Some(seconds(wait).max(1))
}

/// Returns whole seconds, rounded up.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
