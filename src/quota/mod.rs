//! What is allowed: quotas, the policies that name them, and the limits that gather them.
//!
//! Everything here is pure. No function reads a clock, locks or waits: [`Quota::step`] is given a
//! [`State`], the time and a cost, and returns the next state with a [`Status`] to report. That is
//! why one implementation serves every [`Store`](crate::Store), and why it can be tested to the
//! microsecond. [The guide](crate::guide::algorithms) says how to choose among the algorithms.

mod limits;
mod name;
#[cfg(feature = "redis")]
mod numbers;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod quota;
mod state;
mod text;
mod token_bucket;
mod window;

pub use limits::{Limits, MAX_POLICIES, Policy};
pub use name::Scope;
pub(crate) use name::check_name;
#[cfg(feature = "redis")]
pub(crate) use numbers::Numbers;
pub use quota::{Algorithm, Quota};
pub use state::{State, Status};
pub(crate) use token_bucket::{Charge, TokenBucket};
