//! What is the same in many responses: made once, and shared.

use std::fmt::Write;
use std::str;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::decision::Decision;
use crate::quota::{Limits, Policy};

/// What responses say of a layer's limits, whatever is decided.
pub(super) struct Fixed {
    limits: Limits,
    /// Of each policy: how much it allows at once, and the body of a rejection by it alone.
    policies: Box<[(HeaderValue, Bytes)]>,
    ietf: HeaderValue,
}

impl Fixed {
    pub(super) fn new(limits: Limits) -> Self {
        let policies = limits.policies().iter();
        let policies = policies.map(|policy| (limit(policy), quota_exceeded([policy])));
        Self {
            policies: policies.collect(),
            ietf: ietf(&limits),
            limits,
        }
    }

    /// The layer's own limits.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The value of `X-RateLimit-Limit`.
    pub(super) fn limit(&self, decision: &Decision<'_>) -> HeaderValue {
        match decision.limits().is(&self.limits) {
            true => self.policies[decision.binding()].0.clone(),
            false => limit(decision.policy()),
        }
    }

    /// The value of `RateLimit-Policy`.
    pub(super) fn ietf(&self, decision: &Decision<'_>) -> HeaderValue {
        match decision.limits().is(&self.limits) {
            true => self.ietf.clone(),
            false => ietf(decision.limits()),
        }
    }

    /// The body of a rejection, where limits were reached.
    pub(super) fn quota_exceeded(&self, decision: &Decision<'_>) -> Bytes {
        let violated = decision
            .policies()
            .filter(|(_, status)| !status.is_allowed());
        // If there is one alone, it is the binding one.
        if decision.limits().is(&self.limits) && violated.clone().nth(1).is_none() {
            return self.policies[decision.binding()].1.clone();
        }
        quota_exceeded(violated.map(|(policy, _)| policy))
    }
}

fn limit(policy: &Policy) -> HeaderValue {
    number(policy.quota().capacity().into())
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

fn quota_exceeded<'a>(violated: impl IntoIterator<Item = &'a Policy>) -> Bytes {
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
pub(super) fn reduced_capacity(status: StatusCode) -> Bytes {
    problem(
        "temporary-reduced-capacity",
        "Request cannot be satisfied due to temporary server capacity constraints",
        status,
        "",
    )
}

fn problem(kind: &str, title: &str, status: StatusCode, more: &str) -> Bytes {
    let status = status.as_u16();
    let kind = format!("https://iana.org/assignments/http-problem-types#{kind}");
    let body = format!(r#"{{"type":"{kind}","title":"{title}","status":{status}{more}}}"#);
    body.into()
}

/// Names of policies were checked when the limits were made, and the rest is ours.
pub(super) fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("checked names and numbers make a header value")
}

/// A number as a header value. One of up to four digits is not formatted, and allocates nothing.
pub(super) fn number(number: u64) -> HeaderValue {
    if number < FORMATTED {
        return HeaderValue::from_static(digits(number));
    }
    // As long as it has to be, since a value with room to spare is two allocations.
    let mut text = [b'0'; 20];
    let (mut rest, mut start) = (number, text.len());
    while rest > 0 {
        let last = digits(rest % FORMATTED).as_bytes();
        text[start - last.len()..start].copy_from_slice(last);
        rest /= FORMATTED;
        start -= if rest > 0 { 4 } else { last.len() };
    }
    HeaderValue::from_bytes(&text[start..]).expect("digits make a header value")
}

/// The digits of a number of up to four.
fn digits(number: u64) -> &'static str {
    let digits = match number {
        0..10 => 1,
        10..100 => 2,
        100..1_000 => 3,
        _ => 4,
    };
    let end = 4 * (number as usize + 1);
    &NUMBERS[end - digits..end]
}

/// The first that has to be formatted.
const FORMATTED: u64 = 10_000;

/// All numbers below, with four digits each.
static NUMBERS: &str = {
    static DIGITS: [u8; 4 * FORMATTED as usize] = {
        let mut digits = [0; 4 * FORMATTED as usize];
        let mut index = 0;
        while index < digits.len() {
            let power = [1_000, 100, 10, 1][index % 4];
            digits[index] = b'0' + (index / 4 / power % 10) as u8;
            index += 1;
        }
        digits
    };
    match str::from_utf8(&DIGITS) {
        Ok(digits) => digits,
        Err(_) => panic!("digits are text"),
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_formatting_makes_of_them() {
        for value in (0..2 * FORMATTED).chain([99_999_999, 100_000_000, 100_010_001, u64::MAX]) {
            assert_eq!(number(value), value.to_string());
        }
    }
}
