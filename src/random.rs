use std::hash::{BuildHasher, RandomState};
#[cfg(feature = "redis")]
use std::time::Duration;

/// Returns a random number.
pub(crate) fn number() -> u64 {
    RandomState::new().hash_one(0)
}

/// Returns a random number from 0 to 1.
pub(crate) fn jitter() -> f64 {
    number() as f64 / u64::MAX as f64
}

/// Returns a random time from half of `time` to `time`, so that many clients do not act in step.
#[cfg(feature = "redis")]
pub(crate) fn with_jitter(time: Duration) -> Duration {
    time.mul_f64(0.5 + jitter() / 2.0)
}
