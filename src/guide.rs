//! The guide: subjects that span several types.
//!
//! - [`algorithms`]: the guarantees of the three algorithms, and how to choose one.
//! - [`identities`]: how requests are identified, also behind a proxy.
//! - [`failures`]: how requests are decided when the store does not answer.
#![cfg_attr(
    feature = "redis",
    doc = "- [`redis`]: how to operate the crate with Redis, and what happens when Redis fails."
)]
//! - [`stores`]: how to implement a store.
//! - [`metrics`]: the metrics and their labels.

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
