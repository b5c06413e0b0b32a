//! The time of a store in the process.

// system:    the clock of applications, and the trait for other clocks
// manual:    a clock that tests set
// cached:    cached readings, for decisions that tolerate a lag of microseconds
// wall:      time since the Unix epoch without steps
// monotonic: the operating system's monotonic clock

mod cached;
#[cfg(feature = "test-util")]
mod manual;
mod monotonic;
mod system;
mod wall;

pub(crate) use cached::MAX_LAG;
#[cfg(feature = "test-util")]
pub use manual::ManualClock;
pub use system::{Clock, SystemClock};
