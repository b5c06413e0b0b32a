//! What tests need (feature `test-util`): a clock set by hand, a store that does as it is told,
//! and the suite that every store must pass.

mod clock;
pub mod conformance;
mod programmable;

pub use clock::ManualClock;
pub use programmable::{Behavior, ProgrammableStore};
