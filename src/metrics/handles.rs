use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::types::Labels;

/// A counter that is registered, with the given name and labels, when it is first used.
pub(crate) struct LazyCounter(OnceLock<Counter>);

impl LazyCounter {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    #[inline]
    pub(crate) fn increment(&self, name: &'static str, labels: Labels<'_>) {
        self.0.get_or_init(|| counter!(name, labels)).increment(1);
    }
}

/// A gauge that is registered, with the given name and labels, when it is first used.
pub(crate) struct LazyGauge(OnceLock<Gauge>);

impl LazyGauge {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    #[inline]
    pub(crate) fn increment(&self, name: &'static str, labels: Labels<'_>, change: f64) {
        let gauge = self.0.get_or_init(|| gauge!(name, labels));
        gauge.increment(change);
    }
}

/// A histogram that is registered, with the given name and labels, when it is first used.
pub(crate) struct LazyHistogram(OnceLock<Histogram>);

impl LazyHistogram {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    #[inline]
    pub(crate) fn record(&self, name: &'static str, labels: Labels<'_>, value: f64) {
        let histogram = self.0.get_or_init(|| histogram!(name, labels));
        histogram.record(value);
    }
}
