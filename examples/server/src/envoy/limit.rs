//! The limit of a rule.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Struct;
use tollgate::{Limits, Policy, Quota};

/// The limit of a rule, and its part in the decision on a request.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) amount: Amount,
    pub(crate) name: Option<String>,
    /// Names of limits that do not apply to a request to which this limit applies.
    pub(crate) replaces: Vec<String>,
    /// Counts hits without denying any.
    pub(crate) shadow: bool,
    /// Denies a request only if all its limits with this mode do.
    pub(crate) quota_mode: bool,
    /// Dynamic metadata for the response, sent unless the limit is exceeded.
    pub(crate) metadata: Option<Arc<Struct>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Amount {
    Unlimited,
    PerUnit(PerUnit),
}

/// A number of requests in each unit of time.
#[derive(Clone, Debug)]
pub(crate) struct PerUnit {
    pub(crate) requests: u32,
    pub(crate) unit: Unit,
    /// `None` if `requests` is 0, since the library has no quota of 0.
    pub(crate) limits: Option<Limits>,
    /// A limit of 1, which is charged when hits exceed `limits`. It marks the count as exceeded
    /// until the unit ends.
    pub(crate) exceeded: Limits,
}

impl PerUnit {
    pub(crate) fn new(requests: u32, unit: Unit) -> Self {
        Self {
            requests,
            unit,
            limits: (requests > 0).then(|| limits("envoy", requests, unit)),
            exceeded: limits("envoy-over", 1, unit),
        }
    }
}

/// Returns limits of one policy, whose name is a label of metrics. A fixed window accepts every
/// number above 0 in every unit.
fn limits(name: &str, requests: u32, unit: Unit) -> Limits {
    let quota = Quota::fixed_window(requests, unit.duration());
    Limits::new([Policy::new(name, quota)]).expect("one policy with a valid name")
}

/// A unit of time, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    /// 30 days.
    Month,
    /// 365 days.
    Year,
}

impl Unit {
    pub(crate) const NAMES: [(&'static str, Self); 7] = [
        ("second", Self::Second),
        ("minute", Self::Minute),
        ("hour", Self::Hour),
        ("day", Self::Day),
        ("week", Self::Week),
        ("month", Self::Month),
        ("year", Self::Year),
    ];

    pub(crate) fn duration(self) -> Duration {
        const DAY: u64 = 86_400;
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => 30 * DAY,
            Self::Year => 365 * DAY,
        })
    }
}
