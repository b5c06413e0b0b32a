//! Runs contests in rounds. In each round, every contender does the same work once, in an order
//! that rotates, so that other load on the machine affects all contenders alike.

/// A limiter, or a baseline without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// tollgate with counts in the process. For single checks: the verdict of the store.
    Tollgate,
    /// tollgate with counts in the process, up to the decision of the limiter.
    TollgateDecision,
    /// tollgate with counts in Redis, in a contest that also has [`Self::Tollgate`].
    TollgateRedis,
    Governor,
    TowerGovernor,
    AxumGovernor,
    RateNet,
    TowerRateLimitRedis,
    /// The same work without a limiter.
    Bare,
    /// [`Self::Bare`] with the response headers that tollgate adds.
    Headers,
    /// The smallest script on Redis that could be a limiter.
    LeanScript,
    /// The command PING to Redis.
    Ping,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tollgate | Self::TollgateDecision | Self::TollgateRedis => "tollgate",
            Self::Governor => "governor",
            Self::TowerGovernor => "tower_governor",
            Self::AxumGovernor => "axum-governor",
            Self::RateNet => "rate-net",
            Self::TowerRateLimitRedis => "tower-rate-limit-redis",
            Self::Bare => "none",
            Self::Headers => "headers",
            Self::LeanScript => "EVALSHA",
            Self::Ping => "PING",
        }
    }
}

/// One kind of work, and its contenders.
pub(crate) struct Contest<T> {
    pub(crate) label: String,
    contenders: Vec<(Contender, Run<T>)>,
}

type Run<T> = Box<dyn FnMut() -> T>;

impl<T> Contest<T> {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            contenders: Vec::new(),
        }
    }

    /// Adds a contender. Each call of `run` does the work once, and returns the measurement.
    pub(crate) fn add(&mut self, contender: Contender, run: impl FnMut() -> T + 'static) {
        self.contenders.push((contender, Box::new(run)));
    }
}

/// The measurements of a contest.
pub(crate) struct Measured<T> {
    pub(crate) label: String,
    /// The samples of each contender, one of each round.
    samples: Vec<(Contender, Vec<T>)>,
}

impl<T> Measured<T> {
    pub(crate) fn includes(&self, contender: Contender) -> bool {
        self.samples.iter().any(|(other, _)| *other == contender)
    }

    /// Returns the samples of a contender, one of each round.
    fn samples_of(&self, contender: Contender) -> &[T] {
        let mut samples = self.samples.iter();
        let found = samples.find(|(other, _)| *other == contender);
        let (_, samples) = found.expect("the contest has this contender");
        samples
    }

    /// Returns the median of one figure of a contender.
    pub(crate) fn median(&self, contender: Contender, figure: impl Fn(&T) -> f64) -> f64 {
        median(self.samples_of(contender).iter().map(figure))
    }

    /// Returns the median of a figure that is computed from the samples of two contenders in the
    /// same round.
    pub(crate) fn median_of_pairs(
        &self,
        first: Contender,
        second: Contender,
        figure: impl Fn(&T, &T) -> f64,
    ) -> f64 {
        let pairs = self.samples_of(first).iter().zip(self.samples_of(second));
        median(pairs.map(|(first, second)| figure(first, second)))
    }
}

/// Runs all rounds of the contests, and prints the progress on standard error.
pub(crate) fn run<T>(name: &str, rounds: usize, contests: Vec<Contest<T>>) -> Vec<Measured<T>> {
    let (mut contests, mut measured): (Vec<_>, Vec<_>) = contests.into_iter().map(prepare).unzip();
    for round in 0..rounds {
        for (contenders, measured) in contests.iter_mut().zip(&mut measured) {
            eprintln!(
                "{name}, round {} of {rounds}: {}",
                round + 1,
                measured.label
            );
            for turn in 0..contenders.len() {
                let turn = (turn + round) % contenders.len();
                measured.samples[turn].1.push(contenders[turn]());
            }
        }
    }
    measured
}

fn prepare<T>(contest: Contest<T>) -> (Vec<Run<T>>, Measured<T>) {
    let (runs, samples) = contest
        .contenders
        .into_iter()
        .map(|(contender, run)| (run, (contender, Vec::new())))
        .unzip();
    let label = contest.label;
    (runs, Measured { label, samples })
}

/// Returns the median of at least one value.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_count_is_the_mean_of_two() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn each_contender_runs_once_a_round() {
        let mut contest = Contest::new("none");
        contest.add(Contender::Tollgate, || 1.0);
        contest.add(Contender::Bare, || 2.0);
        let measured = run("test", 3, vec![contest]);
        assert_eq!(measured[0].samples_of(Contender::Tollgate), [1.0; 3]);
        assert_eq!(measured[0].samples_of(Contender::Bare), [2.0; 3]);
    }
}
