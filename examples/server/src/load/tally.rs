//! Counts the results of a load.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::client::{CheckResult, Failure};

/// The maximum latency in the histogram, in microseconds: an hour, which is longer than any timeout
/// in use.
const MAX_LATENCY: u64 = 3_600_000_000;

/// The counts and latencies of results.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) allowed: u64,
    pub(super) denied: u64,
    /// The number of degraded results, allowed or denied.
    pub(super) degraded: u64,
    pub(super) failures: BTreeMap<Cow<'static, str>, Failures>,
    /// In microseconds.
    pub(super) latencies: Histogram<u64>,
}

/// The failures of one kind.
#[derive(Debug)]
pub(super) struct Failures {
    pub(super) count: u64,
    /// The time and the message of the first failure.
    pub(super) first: (Duration, String),
}

impl Default for Tally {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, MAX_LATENCY, 3);
        Self {
            sent: 0,
            allowed: 0,
            denied: 0,
            degraded: 0,
            failures: BTreeMap::new(),
            latencies: latencies.expect("valid bounds"),
        }
    }
}

impl Tally {
    pub(super) fn record_result(&mut self, result: CheckResult, took: Duration) {
        if result.allowed {
            self.allowed += 1;
        } else {
            self.denied += 1;
        }
        self.degraded += u64::from(result.degraded);
        let took = u64::try_from(took.as_micros()).unwrap_or(MAX_LATENCY);
        self.latencies.saturating_record(took);
    }

    pub(super) fn record_failure(&mut self, failure: Failure, from: &str, now: Duration) {
        let failures = self
            .failures
            .entry(failure.kind)
            .or_insert_with(|| Failures {
                count: 0,
                first: (now, format!("{from}: {}", failure.detail)),
            });
        failures.count += 1;
    }

    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.degraded += other.degraded;
        for (kind, failures) in other.failures {
            match self.failures.get_mut(&kind) {
                Some(known) => {
                    known.count += failures.count;
                    if failures.first.0 < known.first.0 {
                        known.first = failures.first;
                    }
                }
                None => {
                    self.failures.insert(kind, failures);
                }
            }
        }
        self.latencies
            .add(&other.latencies)
            .expect("the same bounds");
    }

    pub(super) fn results(&self) -> u64 {
        self.allowed + self.denied
    }

    pub(super) fn errors(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_keeps_counts_and_first_failures() {
        let milliseconds = Duration::from_millis;
        let mut sum = Tally::default();
        for (allowed, at) in [(true, 7), (false, 3), (true, 5)] {
            let mut tally = Tally {
                sent: 3,
                ..Tally::default()
            };
            let degraded = !allowed;
            tally.record_result(CheckResult { allowed, degraded }, milliseconds(at));
            for later in 0..2 {
                let failure = Failure::new("lost", format!("at {}", at + later));
                tally.record_failure(failure, "a", milliseconds(at + later));
            }
            sum.add(tally);
        }
        assert_eq!(
            (sum.sent, sum.allowed, sum.denied, sum.degraded),
            (9, 2, 1, 1)
        );
        assert_eq!((sum.results(), sum.errors()), (3, 6));
        assert_eq!(sum.failures["lost"].first.1, "a: at 3");
        assert_eq!(sum.latencies.len(), 3);
        assert_eq!(sum.latencies.value_at_quantile(0.5), 5_003);
    }
}
