//! What is counted, through the `metrics` facade. Without the feature `metrics`, nothing is: the
//! same calls do nothing.

use crate::store::Check;

#[cfg(feature = "metrics")]
mod on;
#[cfg(all(feature = "metrics", feature = "redis"))]
pub(crate) use on::BatchMeter;
#[cfg(feature = "metrics")]
pub use on::describe_metrics;
#[cfg(feature = "metrics")]
pub(crate) use on::{Meter, TableMeter, breaker, unidentified};

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(all(not(feature = "metrics"), feature = "redis"))]
pub(crate) use off::BatchMeter;
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{Meter, TableMeter, breaker, unidentified};

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Check,
    /// A check of cost 0, upon whose states the check that was asked for is previewed.
    Peek,
    Reset,
    Probe,
}

impl Operation {
    /// The check that the store is asked to make.
    pub(crate) fn charged<'a>(self, check: &Check<'a>) -> Check<'a> {
        match self {
            Self::Peek => check.cost(0),
            _ => *check,
        }
    }
}
