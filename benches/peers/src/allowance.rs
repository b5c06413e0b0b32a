//! One quota, in the words of each crate.

use std::num::NonZeroU32;
use std::time::Duration;

use tollgate::{Limits, Quota};

/// A token bucket: `burst` at once, and one more each `interval`.
#[derive(Clone, Copy)]
pub(crate) struct Allowance {
    interval: Duration,
    burst: u32,
}

impl Allowance {
    /// More than is ever asked for. The bucket fills so slowly that whoever has once been counted
    /// has to be remembered while this runs: nobody's count runs out.
    pub(crate) const ENOUGH: Self = Self {
        interval: Duration::from_secs(1),
        burst: 300_000_000,
    };

    /// More than a client asks for here, in numbers of as many digits as headers usually say.
    pub(crate) const USUAL: Self = Self {
        interval: Duration::from_micros(100),
        burst: 1_000,
    };

    /// One request, and no other while this runs.
    pub(crate) const ONE: Self = Self {
        interval: Duration::from_secs(86_400),
        burst: 1,
    };

    /// As much as tower-rate-limit-redis can be told.
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
        let burst = NonZeroU32::new(self.burst).expect("a burst is at least 1");
        governor::Quota::with_period(self.interval)
            .expect("an interval is not zero")
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
