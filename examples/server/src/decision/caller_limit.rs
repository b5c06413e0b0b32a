use std::time::Duration;

use serde::Deserialize;
use tollgate::{Limits, Quota};

use crate::error::Refusal;

/// A limit that the caller gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GivenLimit {
    pub(crate) rate: u32,
    pub(crate) interval: Duration,
    pub(crate) burst: Option<u32>,
    pub(crate) algorithm: Algorithm,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    #[default]
    TokenBucket,
    SlidingWindow,
    FixedWindow,
}

impl GivenLimit {
    /// The limits with these numbers. An error names the field that is invalid.
    pub(crate) fn limits(self) -> Result<Limits, Refusal> {
        if self.rate == 0 {
            return Err(Refusal::invalid("rate", "must be at least 1"));
        }
        if self.interval.is_zero() {
            return Err(Refusal::invalid("interval", "must be longer than 0"));
        }
        let Self { rate, interval, .. } = self;
        let of_interval = |error| Refusal::invalid("interval", error);
        let of_burst = |error| Refusal::invalid("burst", error);
        if self.algorithm == Algorithm::TokenBucket
            && let Some(burst) = self.burst
        {
            // Checked first, so that an invalid interval is not reported as the burst's.
            Quota::try_token_bucket(1, interval).map_err(of_interval)?;
            let quota = Quota::try_token_bucket_with_burst(rate, interval, burst);
            return Ok(quota.map_err(of_burst)?.into());
        }
        let quota = match self.algorithm {
            Algorithm::TokenBucket => Quota::try_token_bucket(rate, interval),
            Algorithm::SlidingWindow => Quota::try_sliding_window(rate, interval),
            Algorithm::FixedWindow => Quota::try_fixed_window(rate, interval),
        };
        let quota = quota.map_err(of_interval)?;
        match self.burst {
            Some(burst) => Ok(quota.try_burst(burst).map_err(of_burst)?.into()),
            None => Ok(quota.into()),
        }
    }
}

/// The limits that a caller gives, if any.
pub(crate) fn given(
    rate: Option<u32>,
    interval: Option<&str>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
) -> Result<Option<Limits>, Refusal> {
    let (rate, interval) = match (rate, interval) {
        (Some(rate), Some(interval)) => (rate, interval),
        (Some(_), None) => {
            return Err(Refusal::invalid(
                "interval",
                "is missing beside `rate`: write 1s",
            ));
        }
        (None, Some(_)) => {
            return Err(Refusal::invalid("rate", "is missing beside `interval`"));
        }
        (None, None) => {
            let only_with = |field| Refusal::invalid(field, "needs `rate` and `interval`");
            return match (burst, algorithm) {
                (Some(_), _) => Err(only_with("burst")),
                (_, Some(_)) => Err(only_with("algorithm")),
                (None, None) => Ok(None),
            };
        }
    };
    let interval = humantime::parse_duration(interval).map_err(|error| {
        let problem = format!("is no duration ({error}): write 1s, 500ms or 1m 30s");
        Refusal::invalid("interval", problem)
    })?;
    let given = GivenLimit {
        rate,
        interval,
        burst,
        algorithm: algorithm.unwrap_or_default(),
    };
    given.limits().map(Some)
}
