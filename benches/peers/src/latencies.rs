//! How long answers take, and how many there are.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Each power of two is cut into so many parts: what is read is at most 1.6 % too small.
const PARTS: u64 = 1 << PARTS_BITS;
const PARTS_BITS: u32 = 6;

/// A histogram that tasks share. To note a latency allocates nothing.
pub(crate) struct Latencies(Box<[AtomicU32]>);

/// What came of asking for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Throughput {
    pub(crate) per_second: f64,
    /// In microseconds, as the next one.
    pub(crate) median: f64,
    /// That of the slowest in a hundred.
    pub(crate) p99: f64,
}

impl Throughput {
    pub(crate) fn rate(&self) -> f64 {
        self.per_second
    }
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let length = place(u64::MAX) + 1;
        Self((0..length).map(|_| AtomicU32::new(0)).collect())
    }

    pub(crate) fn note(&self, latency: Duration) {
        self.0[place(latency.as_nanos() as u64)].fetch_add(1, Relaxed);
    }

    /// What they come to, noted over some time.
    pub(crate) fn over(&self, time: Duration) -> Throughput {
        let count: u64 = self.counts().sum();
        Throughput {
            per_second: count as f64 / time.as_secs_f64(),
            median: self.microseconds(count.div_ceil(2)),
            p99: self.microseconds((count * 99).div_ceil(100)),
        }
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|count| count.load(Relaxed).into())
    }

    /// The latency that so many were not above.
    fn microseconds(&self, rank: u64) -> f64 {
        let mut passed = 0;
        let place = self.counts().position(|count| {
            passed += count;
            passed >= rank
        });
        start(place.unwrap_or(0)) as f64 / 1_000.0
    }
}

/// Where a latency in nanoseconds is counted.
fn place(nanoseconds: u64) -> usize {
    let exponent = nanoseconds.checked_ilog2().unwrap_or(0);
    let shift = exponent.saturating_sub(PARTS_BITS);
    (u64::from(shift) * PARTS + (nanoseconds >> shift)) as usize
}

/// The least that is counted there.
fn start(place: usize) -> u64 {
    let place = place as u64;
    let shift = (place / PARTS).saturating_sub(1);
    (place - shift * PARTS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_counted_where_it_belongs() {
        for nanoseconds in [0, 1, 63, 64, 127, 128, 129, 1_000, 123_456_789, u64::MAX] {
            let start = start(place(nanoseconds));
            let error = (nanoseconds - start) as f64 / nanoseconds.max(1) as f64;
            assert!(error < 0.016, "{nanoseconds} as {start}");
        }
        let places: Vec<_> = (0..100_000).map(place).collect();
        assert!(places.windows(2).all(|two| two[1] - two[0] <= 1));
    }

    #[test]
    fn the_median_and_the_slowest_are_told() {
        let latencies = Latencies::new();
        for microseconds in 1..=100 {
            latencies.note(Duration::from_micros(microseconds));
        }
        let throughput = latencies.over(Duration::from_secs(2));
        assert_eq!(throughput.per_second, 50.0);
        assert!((49.0..=50.0).contains(&throughput.median));
        assert!((97.0..=99.0).contains(&throughput.p99));
    }
}
