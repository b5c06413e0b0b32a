//! What a rule allows.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Struct;
use tollgate::{Limits, Policy, Quota};

/// What a rule says of those whom it means.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) amount: Amount,
    pub(crate) name: Option<String>,
    /// Names of limits that do not count where this one does.
    pub(crate) replaces: Vec<String>,
    /// Counts, and lets all through.
    pub(crate) shadow: bool,
    /// Denies only if all limits of this kind do.
    pub(crate) quota_mode: bool,
    /// What Envoy is told while the rule lets through.
    pub(crate) metadata: Option<Arc<Struct>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Amount {
    Unlimited,
    PerUnit(PerUnit),
}

/// So many requests in each unit of the clock.
#[derive(Clone, Debug)]
pub(crate) struct PerUnit {
    pub(crate) requests: u32,
    pub(crate) unit: Unit,
    /// None where nothing is let through.
    pub(crate) limits: Option<Limits>,
    /// Spent, until the unit ends, once more was asked for than there was.
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

/// One policy, whose name labels metrics. A fixed window takes any limit but 0 in any unit.
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
    /// Of 30 days.
    Month,
    /// Of 365 days.
    Year,
}

impl Unit {
    pub(super) const NAMES: [(&'static str, Self); 7] = [
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
