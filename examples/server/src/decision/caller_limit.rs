use std::time::Duration;

use serde::Deserialize;
use tollgate::{Limits, Quota};

use crate::error::ApiError;

/// A limit that a caller sends with a request, instead of the configured limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallerLimit {
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

impl CallerLimit {
    /// Converts the limit. An error names the invalid field.
    pub(crate) fn limits(self) -> Result<Limits, ApiError> {
        if self.rate == 0 {
            return Err(ApiError::invalid("rate", "must be at least 1"));
        }
        if self.interval.is_zero() {
            return Err(ApiError::invalid("interval", "must be longer than 0"));
        }
        let Self { rate, interval, .. } = self;
        let interval_error = |error| ApiError::invalid("interval", error);
        let burst_error = |error| ApiError::invalid("burst", error);
        if self.algorithm == Algorithm::TokenBucket
            && let Some(burst) = self.burst
        {
            // Checked first, so that the error of an invalid interval does not name the burst.
            Quota::try_token_bucket(1, interval).map_err(interval_error)?;
            let quota = Quota::try_token_bucket_with_burst(rate, interval, burst);
            return Ok(quota.map_err(burst_error)?.into());
        }
        let quota = match self.algorithm {
            Algorithm::TokenBucket => Quota::try_token_bucket(rate, interval),
            Algorithm::SlidingWindow => Quota::try_sliding_window(rate, interval),
            Algorithm::FixedWindow => Quota::try_fixed_window(rate, interval),
        };
        let quota = quota.map_err(interval_error)?;
        match self.burst {
            Some(burst) => Ok(quota.try_burst(burst).map_err(burst_error)?.into()),
            None => Ok(quota.into()),
        }
    }
}

/// Converts the fields of a request that describe a caller's limit. Returns `None` without such
/// fields.
pub(crate) fn parse_caller_limit(
    rate: Option<u32>,
    interval: Option<&str>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
) -> Result<Option<Limits>, ApiError> {
    let (rate, interval) = match (rate, interval) {
        (Some(rate), Some(interval)) => (rate, interval),
        (Some(_), None) => {
            return Err(ApiError::invalid(
                "interval",
                "is missing beside `rate`: write 1s",
            ));
        }
        (None, Some(_)) => {
            return Err(ApiError::invalid("rate", "is missing beside `interval`"));
        }
        (None, None) => {
            let needs_rate = |field| ApiError::invalid(field, "needs `rate` and `interval`");
            return match (burst, algorithm) {
                (Some(_), _) => Err(needs_rate("burst")),
                (_, Some(_)) => Err(needs_rate("algorithm")),
                (None, None) => Ok(None),
            };
        }
    };
    let interval = humantime::parse_duration(interval).map_err(|error| {
        let problem = format!("is not a duration ({error}): write 1s, 500ms or 1m 30s");
        ApiError::invalid("interval", problem)
    })?;
    let limit = CallerLimit {
        rate,
        interval,
        burst,
        algorithm: algorithm.unwrap_or_default(),
    };
    limit.limits().map(Some)
}
