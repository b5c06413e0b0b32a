//! Rounds: in each, every contender does the same work once, in an order that rotates. Whatever
//! else the machine does meanwhile then meets all of them alike.

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Tollgate,
    /// tollgate's whole decision, where the other is the store's verdict.
    TollgateDecision,
    /// tollgate with its counts in Redis, where the other has them in the process.
    TollgateRedis,
    Governor,
    TowerGovernor,
    AxumGovernor,
    RateNet,
    TowerRateLimitRedis,
    /// The same work without a limiter.
    Bare,
    /// Without a limiter, but with the headers that tollgate adds.
    Headers,
    /// The least that a limiter on Redis could ask of it.
    LeanScript,
    Ping,
}

impl Who {
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

/// One kind of work, and those who do it.
pub(crate) struct Work<T> {
    pub(crate) label: String,
    contenders: Vec<(Who, Run<T>)>,
}

type Run<T> = Box<dyn FnMut() -> T>;

impl<T> Work<T> {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            contenders: Vec::new(),
        }
    }

    /// Adds one who does it once whenever called.
    pub(crate) fn contender(&mut self, who: Who, run: impl FnMut() -> T + 'static) {
        self.contenders.push((who, Box::new(run)));
    }
}

/// What came of one kind of work.
pub(crate) struct Measured<T> {
    pub(crate) label: String,
    /// Of each contender, by round.
    samples: Vec<(Who, Vec<T>)>,
}

impl<T> Measured<T> {
    pub(crate) fn includes(&self, who: Who) -> bool {
        self.samples.iter().any(|(one, _)| *one == who)
    }

    /// A contender's samples, by round.
    fn of(&self, who: Who) -> &[T] {
        let found = self.samples.iter().find(|(one, _)| *one == who);
        let (_, samples) = found.expect("who is asked for does this work");
        samples
    }

    /// The median of one figure of a contender.
    pub(crate) fn median(&self, who: Who, figure: impl Fn(&T) -> f64) -> f64 {
        median(self.of(who).iter().map(figure))
    }

    /// The median of a figure of two contenders in the same round.
    pub(crate) fn median_beside(
        &self,
        who: Who,
        other: Who,
        figure: impl Fn(&T, &T) -> f64,
    ) -> f64 {
        let both = self.of(who).iter().zip(self.of(other));
        median(both.map(|(one, other)| figure(one, other)))
    }
}

/// Runs all the rounds, and tells how far it is.
pub(crate) fn run<T>(name: &str, rounds: usize, work: Vec<Work<T>>) -> Vec<Measured<T>> {
    let (mut work, mut measured): (Vec<_>, Vec<_>) = work.into_iter().map(prepare).unzip();
    for round in 0..rounds {
        for (contenders, measured) in work.iter_mut().zip(&mut measured) {
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

fn prepare<T>(work: Work<T>) -> (Vec<Run<T>>, Measured<T>) {
    let (runs, samples) = work
        .contenders
        .into_iter()
        .map(|(who, run)| (run, (who, Vec::new())))
        .unzip();
    let label = work.label;
    (runs, Measured { label, samples })
}

/// Of one value at least.
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
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn each_contender_runs_once_a_round() {
        let mut work = Work::new("none");
        work.contender(Who::Tollgate, || 1.0);
        work.contender(Who::Bare, || 2.0);
        let measured = run("test", 3, vec![work]);
        assert_eq!(measured[0].of(Who::Tollgate), [1.0; 3]);
        assert_eq!(measured[0].of(Who::Bare), [2.0; 3]);
    }
}
