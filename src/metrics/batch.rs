use super::types::Labels;
use super::{LazyCounter, LazyHistogram};

const LABELS: Labels<'static> = &[("store", "redis")];

/// The metrics of a store that sends checks in batches.
pub(crate) struct BatchMeter {
    sizes: LazyHistogram,
    cache_hits: LazyCounter,
}

impl BatchMeter {
    pub(crate) fn new() -> Self {
        Self {
            sizes: LazyHistogram::new(),
            cache_hits: LazyCounter::new(),
        }
    }

    /// Records the number of checks in one round trip.
    pub(crate) fn batch(&self, checks: usize) {
        self.sizes
            .record("rate_limit_batch_size", LABELS, checks as f64);
    }

    /// Counts a check that was denied from the denial cache.
    pub(crate) fn cache_hit(&self) {
        self.cache_hits
            .increment("rate_limit_denial_cache_hits_total", LABELS);
    }
}
