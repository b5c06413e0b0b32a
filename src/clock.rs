use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

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
    anchor: Instant,
    /// The wall clock at `anchor`, in microseconds since the epoch.
    wall: u64,
}

impl SystemClock {
    /// Reads the wall clock, for the first and last time.
    pub fn new() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            anchor: Instant::now(),
            wall: wall.as_micros() as u64,
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        self.wall + self.anchor.elapsed().as_micros() as u64
    }
}
