//! Metrics through the `metrics` facade. Without the feature `metrics`, all of this does nothing.
//!
//! Every metric is registered when it is first needed, and its handle is kept. Callers pass plain
//! values, so this module depends on [`quota`](crate::quota) only.

#[cfg(feature = "redis")]
mod batch;
mod table;
mod types;

#[cfg(feature = "metrics")]
mod decisions;
#[cfg(feature = "metrics")]
mod describe;
#[cfg(feature = "metrics")]
mod handles;
#[cfg(feature = "metrics")]
mod uncached;

#[cfg(not(feature = "metrics"))]
mod off;

#[cfg(feature = "redis")]
pub(crate) use batch::BatchMeter;
#[cfg(feature = "metrics")]
pub(crate) use decisions::DecisionMeter;
#[cfg(feature = "metrics")]
pub use describe::describe_metrics;
#[cfg(feature = "metrics")]
pub(crate) use handles::{LazyCounter, LazyGauge, LazyHistogram};
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{DecisionMeter, LazyCounter, LazyGauge, LazyHistogram, breaker, unidentified};
pub(crate) use table::TableMeter;
pub(crate) use types::DecisionResult;
#[cfg(feature = "metrics")]
pub(crate) use uncached::{breaker, unidentified};
