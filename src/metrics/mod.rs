//! What is counted, through the `metrics` facade. Without the feature `metrics`, nothing is: the
//! same calls do nothing.

#[cfg(feature = "metrics")]
mod on;
#[cfg(all(feature = "metrics", feature = "redis"))]
pub(crate) use on::BatchMeter;
#[cfg(feature = "metrics")]
pub use on::describe_metrics;
#[cfg(feature = "metrics")]
pub(crate) use on::{Meter, TableMeter, breaker};

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(all(not(feature = "metrics"), feature = "redis"))]
pub(crate) use off::BatchMeter;
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{Meter, TableMeter, breaker};

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Check,
    Peek,
    Reset,
    Probe,
}
