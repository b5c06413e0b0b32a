//! The limit of a rule.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Struct;
use tollgate::{Limits, Policy, Quota};

/// The limit of a rule, and how it takes part in the decision on a request.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) amount: Amount,
    pub(crate) name: Option<String>,
    /// Names of limits that are left out of a request to which this limit applies.
    pub(crate) replaces: Vec<String>,
    /// Counts hits, and denies none.
    pub(crate) shadow: bool,
    /// Denies the request only if all limits of the request that have this mode deny it.
    pub(crate) quota_mode: bool,
    /// Dynamic metadata of the response, unless the limit is exceeded.
    pub(crate) metadata: Option<Arc<Struct>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Amount {
    Unlimited,
    PerUnit(PerUnit),
}

/// A number of requests in each unit of the clock.
#[derive(Clone, Debug)]
pub(crate) struct PerUnit {
    pub(crate) requests: u32,
    pub(crate) unit: Unit,
    /// `None` if `requests` is 0: the library has no quota of 0.
    pub(crate) limits: Option<Limits>,
    /// A limit of 1 that is charged when hits do not fit into `limits`, and so marks the count as
    /// exceeded until the unit ends.
    pub(crate) over: Limits,
}

impl PerUnit {
    pub(crate) fn new(requests: u32, unit: Unit) -> Self {
        Self {
            requests,
            unit,
            limits: (requests > 0).then(|| limits("envoy", requests, unit)),
            over: limits("envoy-over", 1, unit),
        }
    }
}

/// One policy, whose name labels metrics. Fixed windows accept every limit above 0 in every unit.
fn limits(name: &str, requests: u32, unit: Unit) -> Limits {
    let quota = Quota::fixed_window(requests, unit.duration());
    Limits::new([Policy::new(name, quota)]).expect("one policy with a good name")
}

/// A unit of the clock, counted from the Unix epoch.
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
