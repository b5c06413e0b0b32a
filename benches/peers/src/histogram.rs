//! Records latencies, and computes their percentiles and the rate of requests.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// The number of buckets for each power of two. A percentile is at most 1.6 % too small.
const BUCKETS: u64 = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 6;

/// A histogram of latencies that tasks share. Recording allocates nothing.
pub(crate) struct Histogram(Box<[AtomicU32]>);

/// The rate and the latencies of requests that were made for some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LoadResult {
    pub(crate) per_second: f64,
    /// The median latency in microseconds.
    pub(crate) median: f64,
    /// The 99th percentile of the latency in microseconds.
    pub(crate) p99: f64,
}

impl LoadResult {
    pub(crate) fn rate(&self) -> f64 {
        self.per_second
    }
}

impl Histogram {
    pub(crate) fn new() -> Self {
        let length = bucket_index(u64::MAX) + 1;
        Self((0..length).map(|_| AtomicU32::new(0)).collect())
    }

    pub(crate) fn record(&self, latency: Duration) {
        self.0[bucket_index(latency.as_nanos() as u64)].fetch_add(1, Relaxed);
    }

    /// Returns the rate, for latencies that were recorded over this time, and the percentiles.
    pub(crate) fn load_result(&self, time: Duration) -> LoadResult {
        let count: u64 = self.counts().sum();
        LoadResult {
            per_second: count as f64 / time.as_secs_f64(),
            median: self.microseconds(count.div_ceil(2)),
            p99: self.microseconds((count * 99).div_ceil(100)),
        }
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|count| count.load(Relaxed).into())
    }

    /// Returns the latency of this rank, counted from the shortest latency, in microseconds.
    fn microseconds(&self, rank: u64) -> f64 {
        let mut passed = 0;
        let index = self.counts().position(|count| {
            passed += count;
            passed >= rank
        });
        bucket_start(index.unwrap_or(0)) as f64 / 1_000.0
    }
}

/// Returns the index of the bucket for a latency in nanoseconds.
fn bucket_index(nanoseconds: u64) -> usize {
    let exponent = nanoseconds.checked_ilog2().unwrap_or(0);
    let shift = exponent.saturating_sub(BUCKET_BITS);
    (u64::from(shift) * BUCKETS + (nanoseconds >> shift)) as usize
}

/// Returns the shortest latency of a bucket in nanoseconds.
fn bucket_start(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / BUCKETS).saturating_sub(1);
    (index - shift * BUCKETS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_is_at_most_1_6_percent_wide() {
        for nanoseconds in [0, 1, 63, 64, 127, 128, 129, 1_000, 123_456_789, u64::MAX] {
            let start = bucket_start(bucket_index(nanoseconds));
            let error = (nanoseconds - start) as f64 / nanoseconds.max(1) as f64;
            assert!(error < 0.016, "{nanoseconds} as {start}");
        }
        let indices: Vec<_> = (0..100_000).map(bucket_index).collect();
        assert!(indices.windows(2).all(|two| two[1] - two[0] <= 1));
    }

    #[test]
    fn load_result_has_rate_median_and_p99() {
        let histogram = Histogram::new();
        for microseconds in 1..=100 {
            histogram.record(Duration::from_micros(microseconds));
        }
        let result = histogram.load_result(Duration::from_secs(2));
        assert_eq!(result.per_second, 50.0);
        assert!((49.0..=50.0).contains(&result.median));
        assert!((97.0..=99.0).contains(&result.p99));
    }
}
