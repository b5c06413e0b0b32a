//! The limiter: a store with a deadline, circuit breakers, a fallback and metrics. It knows nothing of
//! HTTP.

// limiter:       the public handle and its builder
// engine:        the path of a check from the store's answer to a decision
// decision:      the result that a caller gets
// denied:        the error of a check that was not allowed
// fallback:      the table that decides while the store is unavailable
// permit:        the right to go on, and the charge that it keeps open
// open_charge:   a charge that is settled when its request has ended
// renewals:      renews the reservations of open charges
// failure:       the strategies for an unavailable store
// guarded_store: the store with its lanes, its deadline and its probes
// lanes:         the lanes of a store, each with a circuit breaker
// breaker:       the circuit breaker's state machine
// events:        the log
// metrics:       the metrics of decisions and of the store's operations
// shared_counts: the warning about layers that share entries by accident

mod breaker;
mod decision;
mod denied;
mod engine;
mod events;
mod failure;
mod fallback;
mod guarded_store;
mod lanes;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod limiter;
mod metrics;
mod open_charge;
mod permit;
mod renewals;
mod shared_counts;

pub use decision::Decision;
pub use denied::Denied;
pub(crate) use engine::Acquired;
pub use engine::{Checked, CheckedFuture, PendingDecision};
pub use failure::{FailureStrategy, FailureStrategyError};
pub use limiter::{Limiter, LimiterBuilder};
pub use permit::{Charge, Permit};
pub(crate) use shared_counts::LayerRegistration;
