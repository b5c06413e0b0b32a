use std::sync::Arc;

use super::{cached, wall};

/// The clock of a store in the process.
///
/// [`LocalStore`](crate::LocalStore) uses [`SystemClock`] unless set; `test_util::ManualClock` advances
/// only when a test moves it.
pub trait Clock: Send + Sync + 'static {
    /// Returns microseconds since the Unix epoch.
    ///
    /// The clock should never step back. If it does, no tokens are created: a bucket or window waits
    /// until the clock reaches its earlier time again or, after a long step, restarts without tokens.
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
/// The time advances with the machine's monotonic clock. While it differs from the wall clock, it runs
/// faster or slower by one part in 4,096 (21 seconds a day) until the two agree, so that windows stay
/// aligned to UTC. On Linux the duration of a suspension is added at once, since that time has really
/// passed. On other systems, and after a virtual machine was paused without its kernel's knowledge, the
/// difference is corrected at the slow rate.
///
/// All clocks of a process show the same time. In tests they follow `tokio::time::pause`.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(());

impl SystemClock {
    /// Returns the clock of this process. The first call calibrates the processor's time stamp counter,
    /// which takes up to 200 ms.
    pub fn new() -> Self {
        cached::calibrate();
        Self(())
    }

    /// Returns the time of the cached clock: not later than the next result of [`now`](Clock::now), and at
    /// most [`MAX_LAG`](super::MAX_LAG) microseconds earlier.
    #[inline]
    pub(crate) fn cached_now(&self) -> u64 {
        cached::now() / 1_000
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
