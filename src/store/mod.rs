//! Stores, which keep the state of every identity, and what an author of a store needs.
//!
//! An application uses [`LocalStore`] or
#![cfg_attr(feature = "redis", doc = "[`RedisStore`].")]
#![cfg_attr(not(feature = "redis"), doc = "`RedisStore` (feature `redis`).")]
//! A store of your own implements [`Store`]: it loads the [`State`] of each policy of a [`Check`],
//! calls [`Check::decide`], writes the resulting states back, and returns the [`Verdict`].
//! [The guide](crate::guide::stores) shows how. The `conformance` suite (feature `test-util`) tests
//! any store.
//!
//! A store only decides. The [`Limiter`](crate::Limiter) adds the deadline, the circuit breaker and
//! the failure strategy, and computes what a client is told from the verdict.

// check:      a check, and the arithmetic that decides it
// verdict:    the result of a check
// receipt:    a record of one charge, to settle it
// per_policy: one value for each policy of a check
// prehashed:  a hasher for keys that are hashes
// error:      why a store did not decide
// store:      the trait
// local:      a table in this process
// redis:      a script on a Redis server

mod check;
#[cfg(feature = "test-util")]
pub mod conformance;
mod error;
mod local;
mod per_policy;
mod prehashed;
mod receipt;
#[cfg(feature = "redis")]
mod redis;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod store;
mod verdict;

pub(crate) use check::FallbackStates;
pub use check::{Check, OwnedCheck};
pub use error::{StoreError, StoreErrorKind};
pub use local::LocalStore;
pub(crate) use local::Table;
pub(crate) use prehashed::PrehashedHasher;
pub use receipt::Receipt;
#[cfg(feature = "redis")]
pub use redis::{RedisConfigError, RedisCredentials, RedisStore, RedisStoreBuilder};
pub use store::{BoxFuture, Outcome, Store};
pub(crate) use verdict::PerPolicy;
pub use verdict::{Step, Verdict};

pub use crate::quota::{State, Status};
