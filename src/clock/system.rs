use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::recent::{exact, prepare, recent};

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

/// Monotonic time, anchored to the wall clock once, when it is made: windows line up with the
/// epoch, and no correction of the wall clock reaches a count.
///
/// Follows `tokio::time::pause` in tests.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    /// From what [`exact`] counts from to the epoch, in nanoseconds.
    epoch: u64,
}

impl SystemClock {
    /// Reads the wall clock, for the first and last time.
    pub fn new() -> Self {
        prepare();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            epoch: (wall.as_nanos() as u64).wrapping_sub(exact()),
        }
    }

    /// The time as of a moment ago: never later than what [`now`](Clock::now) says afterwards.
    #[inline]
    pub(crate) fn recently(&self) -> u64 {
        self.epoch.wrapping_add(recent()) / 1_000
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        self.epoch.wrapping_add(exact()) / 1_000
    }
}
