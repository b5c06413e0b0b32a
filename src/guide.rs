//! How to use it well: more than fits beside any one type.
//!
//! - [`algorithms`]: what the three algorithms promise, and how to choose.
//! - [`identities`]: who is asking, and how to sit behind a proxy safely.
//! - [`failures`]: what happens when the store does not answer.
#![cfg_attr(
    feature = "redis",
    doc = "- [`redis`]: how to run it with Redis, and what happens when that fails."
)]
//! - [`stores`]: how to write one.
//! - [`metrics`]: what is counted.

#[doc = include_str!("guide/algorithms.md")]
pub mod algorithms {}

#[doc = include_str!("guide/identities.md")]
pub mod identities {}

#[doc = include_str!("guide/failures.md")]
pub mod failures {}

#[cfg(feature = "redis")]
#[doc = include_str!("guide/redis.md")]
pub mod redis {}

#[doc = include_str!("guide/stores.md")]
pub mod stores {}

#[doc = include_str!("guide/metrics.md")]
pub mod metrics {}
