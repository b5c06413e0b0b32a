//! The report of a load, as JSON or as text.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde::Serialize;

use super::plan::Plan;
use super::tally::Tally;

/// The measurements of a load.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    servers: Vec<String>,
    in_flight: u32,
    rate: Option<u64>,
    seconds: f64,
    /// Responses per second.
    throughput: f64,
    requests: u64,
    allowed: u64,
    denied: u64,
    degraded: u64,
    errors: u64,
    /// The number of requests without a response when the load was stopped.
    given_up: u64,
    failures: Vec<Failures>,
    /// `None` without any response.
    latency_us: Option<Latency>,
    histogram: Vec<Bar>,
}

#[derive(Debug, Serialize)]
struct Failures {
    kind: String,
    count: u64,
    first: String,
}

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    since: Since,
    p50: u64,
    p95: u64,
    p99: u64,
    max: u64,
}

/// The start of a latency.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Since {
    Due,
    Sent,
}

impl Report {
    pub(super) fn new(plan: &Plan, tally: &Tally, took: Duration) -> Self {
        let failures = tally.failures.iter().map(|(kind, failures)| Failures {
            kind: kind.to_string(),
            count: failures.count,
            first: failures.first.1.clone(),
        });
        let latencies = &tally.latencies;
        let latency = Latency {
            since: match plan.rate {
                Some(_) => Since::Due,
                None => Since::Sent,
            },
            p50: latencies.value_at_quantile(0.5),
            p95: latencies.value_at_quantile(0.95),
            p99: latencies.value_at_quantile(0.99),
            max: latencies.max(),
        };
        Self {
            servers: plan.servers.iter().map(ToString::to_string).collect(),
            in_flight: plan.in_flight,
            rate: plan.rate.map(Into::into),
            seconds: took.as_secs_f64(),
            throughput: tally.results() as f64 / took.as_secs_f64(),
            requests: tally.sent,
            allowed: tally.allowed,
            denied: tally.denied,
            degraded: tally.degraded,
            errors: tally.errors(),
            given_up: tally.sent - tally.results() - tally.errors(),
            failures: failures.collect(),
            latency_us: (!latencies.is_empty()).then_some(latency),
            histogram: bars(latencies),
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }
}

/// The length of the longest bar, so that a line of the histogram has less than 80 columns.
const MAX_BAR_LENGTH: u64 = 40;

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.heading(formatter)?;
        self.counts(formatter)?;
        self.latencies(formatter)?;
        self.bars(formatter)?;
        self.errors(formatter)
    }
}

impl Report {
    fn heading(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = HumanCount(self.requests);
        let speed = match self.rate {
            Some(rate) => format!("{} a second", HumanCount(rate)),
            None => "at full speed".to_owned(),
        };
        writeln!(
            formatter,
            "{requests} requests in {:.2} s: {speed}, {} in flight\n{}\n",
            self.seconds,
            self.in_flight,
            self.servers.join(" ")
        )
    }

    fn counts(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(formatter, "throughput", self.throughput as u64, " /s")?;
        line(formatter, "allowed", self.allowed, "")?;
        line(formatter, "denied", self.denied, "")?;
        line(formatter, "degraded", self.degraded, "")?;
        line(formatter, "errors", self.errors, "")?;
        if self.given_up > 0 {
            line(formatter, "given up", self.given_up, "")?;
        }
        Ok(())
    }

    fn latencies(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(latency) = &self.latency_us else {
            return Ok(());
        };
        let since = match latency.since {
            Since::Due => "each was due",
            Since::Sent => "each was sent",
        };
        writeln!(formatter, "\nlatency, from when {since}")?;
        for (name, value) in [
            ("p50", latency.p50),
            ("p95", latency.p95),
            ("p99", latency.p99),
            ("max", latency.max),
        ] {
            writeln!(formatter, "{name:<10} {:>13} ms", milliseconds(value))?;
        }
        Ok(())
    }

    fn bars(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.histogram.iter().map(|bar| bar.count);
        let (all, most) = (counts.clone().sum::<u64>(), counts.max().unwrap_or(0));
        if most > 0 {
            writeln!(formatter, "\n   up to ms       answers")?;
        }
        for bar in &self.histogram {
            // Rounded up, so that a single response is visible.
            let length = (bar.count * MAX_BAR_LENGTH).div_ceil(most) as usize;
            let line = format!(
                "{:>11} {:>13} {:>5.1} %  {}",
                milliseconds(bar.up_to_us),
                HumanCount(bar.count).to_string(),
                bar.count as f64 * 100.0 / all as f64,
                "#".repeat(length)
            );
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn errors(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.failures.is_empty() {
            writeln!(formatter, "\nerrors, and the first of each kind")?;
        }
        for failures in &self.failures {
            line(formatter, &failures.kind, failures.count, "")?;
            writeln!(formatter, "           {}", failures.first)?;
        }
        Ok(())
    }
}

fn line(formatter: &mut fmt::Formatter<'_>, name: &str, count: u64, unit: &str) -> fmt::Result {
    let count = HumanCount(count).to_string();
    writeln!(formatter, "{name:<10} {count:>13}{unit}")
}

fn milliseconds(microseconds: u64) -> String {
    let hundredths = microseconds.saturating_add(5) / 10;
    format!("{}.{:02}", HumanCount(hundredths / 100), hundredths % 100)
}

/// The bounds of bars in each power of ten, about evenly spaced on a logarithmic scale.
const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 70];

/// A bar of the histogram: the responses that took longer than the previous bar, and at most
/// `up_to_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Bar {
    up_to_us: u64,
    count: u64,
}

/// Returns the bars from the fastest to the slowest response.
fn bars(latencies: &Histogram<u64>) -> Vec<Bar> {
    // The bars below the fastest response are left out.
    let mut bounds = bounds().skip_while(|bound| *bound < latencies.min());
    let mut bars: Vec<Bar> = Vec::new();
    for value in latencies.iter_recorded() {
        let took = latencies.lowest_equivalent(value.value_iterated_to());
        while bars.last().is_none_or(|bar| bar.up_to_us < took)
            && let Some(up_to_us) = bounds.next()
        {
            bars.push(Bar { up_to_us, count: 0 });
        }
        if let Some(bar) = bars.last_mut() {
            bar.count += value.count_at_value();
        }
    }
    bars
}

/// Returns the upper bounds of bars, in microseconds.
fn bounds() -> impl Iterator<Item = u64> {
    let powers = (0..).map_while(|power| 10_u64.checked_pow(power));
    powers.flat_map(|power| {
        STEPS
            .into_iter()
            .filter_map(move |step| step.checked_mul(power))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_counts_latencies_histogram_and_errors() {
        let report = Report {
            servers: vec!["http://a:1".to_owned(), "grpc://b:2".to_owned()],
            in_flight: 64,
            rate: Some(3_000),
            seconds: 40.5,
            throughput: 2_716.04,
            requests: 110_003,
            allowed: 100_000,
            denied: 10_000,
            degraded: 7,
            errors: 2,
            given_up: 1,
            failures: vec![Failures {
                kind: "cannot connect".to_owned(),
                count: 2,
                first: "http://a:1: refused".to_owned(),
            }],
            latency_us: Some(Latency {
                since: Since::Due,
                p50: 950,
                p95: 1_204,
                p99: 1_999,
                max: 1_234_567,
            }),
            histogram: vec![
                Bar {
                    up_to_us: 1_000,
                    count: 99_999,
                },
                Bar {
                    up_to_us: 1_500,
                    count: 0,
                },
                Bar {
                    up_to_us: 2_000_000,
                    count: 10_001,
                },
            ],
        };
        let expected = "\
110,003 requests in 40.50 s: 3,000 a second, 64 in flight
http://a:1 grpc://b:2

throughput         2,716 /s
allowed          100,000
denied            10,000
degraded               7
errors                 2
given up               1

latency, from when each was due
p50                 0.95 ms
p95                 1.20 ms
p99                 2.00 ms
max             1,234.57 ms

   up to ms       answers
       1.00        99,999  90.9 %  ########################################
       1.50             0   0.0 %
   2,000.00        10,001   9.1 %  #####

errors, and the first of each kind
cannot connect             2
           http://a:1: refused
";
        assert_eq!(report.to_string(), expected);
    }

    fn bars_of(values: &[u64]) -> Vec<(u64, u64)> {
        let mut latencies = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
        for value in values {
            latencies.saturating_record(*value);
        }
        let bars = bars(&latencies).into_iter();
        bars.map(|bar| (bar.up_to_us, bar.count)).collect()
    }

    #[test]
    fn every_response_is_in_one_bar() {
        assert_eq!(bars_of(&[]), []);
        assert_eq!(bars_of(&[0, 3, 10]), [(10, 3)]);
        assert_eq!(bars_of(&[11, 15, 16]), [(15, 2), (20, 1)]);
        // Empty bars between the fastest and the slowest response are shown.
        let expected = [(150, 1), (200, 0), (300, 0), (500, 2)];
        assert_eq!(bars_of(&[101, 499, 500]), expected);
        let (up_to_us, count) = bars_of(&[u64::MAX])[0];
        assert!(up_to_us >= 3_600_000_000, "{up_to_us}");
        assert_eq!(count, 1);
    }
}
