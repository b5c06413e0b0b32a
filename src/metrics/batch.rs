use super::types::Labels;
use super::{LazyCounter, LazyHistogram};

const LABELS: Labels<'static> = &[("store", "redis")];

/// The metrics of a store that sends checks in batches.
pub(crate) struct BatchMeter {
    sizes: LazyHistogram,
    memory_hits: LazyCounter,
}

impl BatchMeter {
    pub(crate) fn new() -> Self {
        Self {
            sizes: LazyHistogram::new(),
            memory_hits: LazyCounter::new(),
        }
    }

    /// Records the number of checks in one round trip.
    pub(crate) fn batch(&self, checks: usize) {
        self.sizes
            .record("rate_limit_batch_size", LABELS, checks as f64);
    }

    /// Counts a check that was denied from the memory of denials.
    pub(crate) fn remembered(&self) {
        self.memory_hits
            .increment("rate_limit_denial_memory_hits_total", LABELS);
    }
}
