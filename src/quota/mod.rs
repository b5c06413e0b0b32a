//! Quotas, the policies that name them, and the limits that group policies.
//!
//! This module is pure arithmetic: no function reads a clock, takes a lock or blocks.
//! [`Quota::step`] takes a [`State`], the time and a cost, and returns the next state and a
//! [`Status`], so every [`Store`](crate::Store) shares one implementation and tests are exact to the
//! microsecond. [The guide](crate::guide::algorithms) compares the algorithms.

mod concurrency;
#[cfg(feature = "redis")]
mod encoding;
mod error;
mod kind;
mod limits;
mod name;
mod parse;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod quota;
mod reservation;
mod scope;
#[cfg(feature = "serde")]
mod serde;
mod state;
mod token_bucket;
mod window;

#[cfg(feature = "redis")]
pub(crate) use encoding::EncodedQuota;
pub use error::QuotaError;
pub use kind::Kind;
pub use limits::{Limits, LimitsError, MAX_POLICIES, Policy};
pub use name::NameError;
pub(crate) use name::check_name;
pub use quota::{Algorithm, Quota};
pub use scope::Scope;
pub use state::{State, Status};
pub(crate) use token_bucket::{Charge, TokenBucket};
