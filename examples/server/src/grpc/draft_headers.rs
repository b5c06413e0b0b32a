//! The `x-ratelimit-*` headers of draft-polli-ratelimit-headers-03, as Envoy writes them.

use std::fmt::Write;

use crate::protocol::envoy::config::core::v3::HeaderValue;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_response::{
    DescriptorStatus, RateLimit,
};

/// The headers for the descriptor with the fewest remaining requests, with all limits in
/// `x-ratelimit-limit`. Empty if no descriptor has a limit.
pub(super) fn of(statuses: &[DescriptorStatus]) -> Vec<HeaderValue> {
    let limited = || {
        let statuses = statuses.iter();
        statuses.filter_map(|status| Some((status, status.current_limit.as_ref()?)))
    };
    let Some((status, limit)) = limited().min_by_key(|(status, _)| status.limit_remaining) else {
        return Vec::new();
    };
    let mut limits = limit.requests_per_unit.to_string();
    for (_, limit) in limited() {
        limits.push_str(", ");
        append(&mut limits, limit);
    }
    let reset = status.duration_until_reset.unwrap_or_default();
    let reset = reset.seconds + i64::from(reset.nanos > 0);
    let header = |key: &str, value| HeaderValue {
        key: key.to_owned(),
        value,
    };
    vec![
        header("x-ratelimit-limit", limits),
        header("x-ratelimit-remaining", status.limit_remaining.to_string()),
        header("x-ratelimit-reset", reset.to_string()),
    ]
}

fn append(text: &mut String, limit: &RateLimit) {
    let window = match limit.unit() {
        Unit::Unknown => 0,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3_600,
        Unit::Day => 86_400,
        Unit::Week => 7 * 86_400,
        Unit::Month => 30 * 86_400,
        Unit::Year => 365 * 86_400,
    };
    let written = write!(text, "{};w={window}", limit.requests_per_unit);
    written.expect("a String takes everything");
    if !limit.name.is_empty() {
        // The configuration accepts any name, even one with quotes.
        let name = limit.name.replace(['\\', '"'], "");
        let written = write!(text, ";name=\"{name}\"");
        written.expect("a String takes everything");
    }
}
