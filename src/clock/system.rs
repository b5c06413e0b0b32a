use std::sync::Arc;

use super::recent::{prepare, recent};
use super::wall;

/// Tells a store in the process what time it is.
///
/// [`LocalStore`](crate::LocalStore) has [`SystemClock`] unless told otherwise;
/// `test_util::ManualClock` stands still until it is moved.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since the Unix epoch.
    ///
    /// Should never step back. If it does, nothing is minted: a bucket or window waits until the
    /// clock is where it was, or, after a long step, starts over from full debt.
    fn now(&self) -> u64;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> u64 {
        (**self).now()
    }
}

/// The wall clock without its steps: the time never steps back, and no correction of the wall clock
/// creates tokens.
///
/// The time runs with the machine's monotonic clock. While the two differ, it runs faster or slower
/// by one part in 4,096 until it agrees with the wall clock again, so that windows stay aligned to
/// UTC. On Linux the time in which the machine was suspended is added at once, since that has really
/// passed; elsewhere, and where a virtual machine was paused without its kernel's knowledge, it is
/// made up for at the same slow rate, which is 21 seconds a day.
///
/// All clocks of a process show the same time. In tests they follow `tokio::time::pause`.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(());

impl SystemClock {
    /// The clock of this process.
    pub fn new() -> Self {
        prepare();
        Self(())
    }

    /// The time of a cached reading: never later than what [`now`](Clock::now) returns afterwards,
    /// and at most [`LATE`](super::LATE) microseconds earlier.
    #[inline]
    pub(crate) fn recently(&self) -> u64 {
        recent() / 1_000
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        wall::now() / 1_000
    }
}
