//! Builds the response to Envoy: the status of each descriptor, headers and dynamic metadata.

use std::collections::btree_map::Entry;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::call::duration;
use crate::configuration::ReloadableSettings;
use crate::decision::DecisionResponse;
use crate::envoy::{PerUnit, Unit};
use crate::protocol::envoy::config::core::v3::HeaderValue;
use crate::protocol::envoy::service::ratelimit::v3::RateLimitResponse;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit,
};

/// The decision on a descriptor.
pub(super) struct DescriptorOutcome {
    pub(super) status: DescriptorStatus,
    pub(super) is_denied: bool,
    pub(super) quota_mode: bool,
    /// The rule's metadata, unless its limit is exceeded.
    pub(super) metadata: Option<Arc<Struct>>,
}

/// Returns the `x-ratelimit-*` headers of draft-polli-ratelimit-headers-03, as Envoy writes them:
/// for the descriptor with the fewest remaining requests, with all limits in `x-ratelimit-limit`.
/// Returns none if no descriptor has a limit.
fn headers(statuses: &[DescriptorStatus]) -> Vec<HeaderValue> {
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
        append_limit(&mut limits, limit);
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

fn append_limit(text: &mut String, limit: &RateLimit) {
    let window = match limit.unit() {
        rate_limit::Unit::Unknown => 0,
        rate_limit::Unit::Second => 1,
        rate_limit::Unit::Minute => 60,
        rate_limit::Unit::Hour => 3_600,
        rate_limit::Unit::Day => 86_400,
        rate_limit::Unit::Week => 7 * 86_400,
        rate_limit::Unit::Month => 30 * 86_400,
        rate_limit::Unit::Year => 365 * 86_400,
    };
    let written = write!(text, "{};w={window}", limit.requests_per_unit);
    written.expect("a String accepts all text");
    if !limit.name.is_empty() {
        // The configuration accepts names with quotes.
        let name = limit.name.replace(['\\', '"'], "");
        let written = write!(text, ";name=\"{name}\"");
        written.expect("a String accepts all text");
    }
}

/// Combines the outcomes of all descriptors.
pub(super) fn respond(
    settings: &ReloadableSettings,
    outcomes: Vec<DescriptorOutcome>,
) -> RateLimitResponse {
    let is_denied = outcomes
        .iter()
        .any(|outcome| outcome.is_denied && !outcome.quota_mode);
    let mut quotas = outcomes
        .iter()
        .filter(|outcome| outcome.quota_mode)
        .peekable();
    let no_quota_left = quotas.peek().is_some() && quotas.all(|outcome| outcome.is_denied);
    let code = match is_denied || no_quota_left {
        true => Code::OverLimit,
        false => Code::Ok,
    };
    let metadata = outcomes
        .iter()
        .filter_map(|outcome| outcome.metadata.as_deref());
    let dynamic_metadata = dynamic_metadata(metadata);
    let statuses: Vec<_> = outcomes.into_iter().map(|outcome| outcome.status).collect();
    let headers = match settings.envoy.response_headers {
        true => headers(&statuses),
        false => Vec::new(),
    };
    RateLimitResponse {
        overall_code: code.into(),
        statuses,
        response_headers_to_add: headers,
        dynamic_metadata,
    }
}

/// Returns the status of a descriptor whose rule counts nothing.
pub(super) fn ok(current_limit: Option<RateLimit>, limit_remaining: u32) -> DescriptorStatus {
    DescriptorStatus {
        code: Code::Ok.into(),
        current_limit,
        limit_remaining,
        duration_until_reset: None,
    }
}

/// Returns the status of a descriptor after a check.
pub(super) fn status(
    name: Option<&str>,
    per_unit: &PerUnit,
    response: Option<&DecisionResponse>,
    is_denied: bool,
) -> DescriptorStatus {
    let limit = RateLimit {
        requests_per_unit: per_unit.requests,
        unit: unit(per_unit.unit).into(),
        name: name.unwrap_or_default().to_owned(),
    };
    // 0 for a denied request, although fewer hits might still fit.
    let remaining = response.filter(|response| response.allowed);
    let until_reset = match response.map(|response| response.reset_after) {
        Some(until_reset) if !until_reset.is_zero() => until_reset,
        _ => until_unit_ends(per_unit.unit),
    };
    let code = if is_denied { Code::OverLimit } else { Code::Ok };
    DescriptorStatus {
        code: code.into(),
        duration_until_reset: Some(duration(until_reset)),
        ..ok(
            Some(limit),
            remaining.map_or(0, |response| response.remaining),
        )
    }
}

/// Returns the time until the current unit ends, for a count that has no window yet.
fn until_unit_ends(unit: Unit) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let unit = unit.duration().as_secs();
    Duration::from_secs(unit - now.unwrap_or_default().as_secs() % unit)
}

fn unit(unit: Unit) -> rate_limit::Unit {
    match unit {
        Unit::Second => rate_limit::Unit::Second,
        Unit::Minute => rate_limit::Unit::Minute,
        Unit::Hour => rate_limit::Unit::Hour,
        Unit::Day => rate_limit::Unit::Day,
        Unit::Week => rate_limit::Unit::Week,
        Unit::Month => rate_limit::Unit::Month,
        Unit::Year => rate_limit::Unit::Year,
    }
}

/// Returns the dynamic metadata of a response: the merged metadata of rules, in the field
/// `metadata`. Returns `None` if that is empty.
fn dynamic_metadata<'a>(settings: impl IntoIterator<Item = &'a Struct>) -> Option<Struct> {
    let mut merged = Struct::default();
    for metadata in settings {
        merge(&mut merged, metadata);
    }
    let has_fields = !merged.fields.is_empty();
    let kind = Some(Kind::StructValue(merged));
    has_fields.then(|| Struct {
        fields: [("metadata".to_owned(), Value { kind })].into(),
    })
}

/// Adds the fields of `more`. A field of `merged` keeps its value, unless both values are structs,
/// which are merged recursively.
fn merge(merged: &mut Struct, more: &Struct) {
    for (name, value) in &more.fields {
        match merged.fields.entry(name.clone()) {
            Entry::Vacant(free) => {
                free.insert(value.clone());
            }
            Entry::Occupied(mut known) => {
                if let (Some(Kind::StructValue(merged)), Some(Kind::StructValue(more))) =
                    (&mut known.get_mut().kind, &value.kind)
                {
                    merge(merged, more);
                }
            }
        }
    }
}
