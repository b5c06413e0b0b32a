use super::{LazyCounter, LazyGauge};

/// The metrics of an in-process table, added to those of other tables with the same store name.
pub(crate) struct TableMeter {
    store: &'static str,
    live: LazyGauge,
    evictions: LazyCounter,
}

impl TableMeter {
    pub(crate) fn new(store: &'static str) -> Self {
        Self {
            store,
            live: LazyGauge::new(),
            evictions: LazyCounter::new(),
        }
    }

    /// Adds to the number of live entries.
    pub(crate) fn live(&self, change: i64) {
        if change != 0 {
            let labels = [("store", self.store)];
            let change = change as f64;
            self.live
                .increment("rate_limit_live_entries", &labels, change);
        }
    }

    /// Counts an eviction of a live entry.
    pub(crate) fn evicted(&self) {
        let labels = [("store", self.store)];
        self.evictions
            .increment("rate_limit_evictions_total", &labels);
    }
}
