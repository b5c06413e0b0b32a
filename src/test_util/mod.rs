//! Test utilities (feature `test-util`): a manual clock, a programmable store, and the suite that
//! every store must pass.

mod clock;
pub mod conformance;
mod programmable;

pub use clock::ManualClock;
pub use programmable::{Behavior, ProgrammableStore};
