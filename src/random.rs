use std::hash::{BuildHasher, RandomState};
#[cfg(feature = "redis")]
use std::time::Duration;

/// A random number.
pub(crate) fn number() -> u64 {
    RandomState::new().hash_one(0)
}

/// A random number from 0 to 1.
pub(crate) fn jitter() -> f64 {
    number() as f64 / u64::MAX as f64
}

/// A random part of a time, at least half of it, so that many clients do not come in step.
#[cfg(feature = "redis")]
pub(crate) fn part_of(time: Duration) -> Duration {
    time.mul_f64(0.5 + jitter() / 2.0)
}
