//! Deciding whatever happens: a store with a deadline, breakers, a fallback and metrics.
//!
//! Knows nothing of HTTP, so that every front door can share it.

mod any_store;
mod breaker;
mod builder;
mod claims;
mod failure;
mod lane;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod limiter;
mod metrics;
mod pending;

pub use builder::LimiterBuilder;
pub(crate) use claims::Claim;
pub use failure::FailureStrategy;
pub use limiter::Limiter;
pub use pending::{Checked, CheckedFuture, PendingDecision};
