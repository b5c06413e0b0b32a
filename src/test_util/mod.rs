//! Utilities for tests of applications (feature `test-util`): a clock that a test sets, and a store that
//! a test makes fail. The suite for stores is [`store::conformance`](crate::store::conformance).

mod programmable;

pub use programmable::{Behavior, ProgrammableStore};

pub use crate::clock::ManualClock;
