//! One quota, as each crate configures it.

use std::num::NonZeroU32;
use std::time::Duration;

use tollgate::{Limits, Quota};

/// A token bucket that starts with `burst` tokens and gets one more in each `interval`.
#[derive(Clone, Copy)]
pub(crate) struct TokenBucket {
    interval: Duration,
    burst: u32,
}

impl TokenBucket {
    /// A bucket that is never empty here. It refills so slowly that no limiter may drop an entry
    /// while the program runs.
    pub(crate) const INEXHAUSTIBLE: Self = Self {
        interval: Duration::from_secs(1),
        burst: 300_000_000,
    };

    /// A bucket that no client empties here, whose numbers are as long as in usual headers.
    pub(crate) const USUAL: Self = Self {
        interval: Duration::from_micros(100),
        burst: 1_000,
    };

    /// A bucket that admits one request while the program runs.
    pub(crate) const ONE: Self = Self {
        interval: Duration::from_secs(86_400),
        burst: 1,
    };

    /// The largest burst of tower-rate-limit-redis, which has 16 bits for it.
    pub(crate) const SIXTEEN_BITS: Self = Self {
        interval: Duration::from_secs(60),
        burst: u16::MAX as u32,
    };

    pub(crate) fn tollgate(self) -> Limits {
        Quota::token_bucket(1, self.interval)
            .burst(self.burst)
            .into()
    }

    pub(crate) fn governor(self) -> governor::Quota {
        let burst = NonZeroU32::new(self.burst).expect("the burst is at least 1");
        governor::Quota::with_period(self.interval)
            .expect("the interval is not zero")
            .allow_burst(burst)
    }

    pub(crate) fn rate_net(self) -> rate_net::Builder {
        rate_net::RateLimiter::builder()
            .quota(1, self.interval)
            .burst(self.burst)
    }

    pub(crate) fn interval(self) -> Duration {
        self.interval
    }

    pub(crate) fn burst(self) -> u32 {
        self.burst
    }
}
