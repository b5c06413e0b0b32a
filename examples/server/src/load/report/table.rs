use std::fmt;

use indicatif::HumanCount;

use super::numbers::{Report, Since};

/// How long the longest bar is: with what stands before it, a line has less than 80 columns.
const LONGEST: u64 = 40;

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
            None => "flat out".to_owned(),
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
            // Whatever happened at all can be seen.
            let length = (bar.count * LONGEST).div_ceil(most) as usize;
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

#[cfg(test)]
mod tests {
    use super::super::histogram::Bar;
    use super::super::numbers::{Failures, Latency};
    use super::*;

    #[test]
    fn a_table() {
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
}
