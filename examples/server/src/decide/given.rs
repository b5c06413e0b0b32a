use std::time::Duration;

use serde::Deserialize;
use tollgate::{Limits, Quota};

use super::refusal::Refusal;

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
    /// The limits that these numbers make. What is wrong with them is said of the field to blame.
    pub(crate) fn limits(self) -> Result<Limits, Refusal> {
        if self.rate == 0 {
            return Err(Refusal::invalid("rate", "must be at least 1"));
        }
        if self.interval.is_zero() {
            return Err(Refusal::invalid("interval", "must be longer than nothing"));
        }
        let of_interval = |error| Refusal::invalid("interval", error);
        let quota = match self.algorithm {
            Algorithm::TokenBucket => Quota::try_token_bucket(self.rate, self.interval),
            Algorithm::SlidingWindow => Quota::try_sliding_window(self.rate, self.interval),
            Algorithm::FixedWindow => Quota::try_fixed_window(self.rate, self.interval),
        };
        let quota = quota.map_err(of_interval)?;
        let quota = match self.burst {
            Some(burst) => quota
                .try_burst(burst)
                .map_err(|error| Refusal::invalid("burst", error))?,
            None => quota,
        };
        Ok(quota.into())
    }
}
