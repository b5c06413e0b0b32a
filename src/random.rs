use std::hash::{BuildHasher, RandomState};

/// A random number.
pub(crate) fn number() -> u64 {
    RandomState::new().hash_one(0)
}

/// A random number from 0 to 1.
pub(crate) fn jitter() -> f64 {
    number() as f64 / u64::MAX as f64
}
