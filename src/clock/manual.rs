use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::system::Clock;

/// A clock that only moves when it is set or advanced. Clones share the time.
///
/// ```
/// use std::time::Duration;
/// use tollgate::test_util::ManualClock;
/// use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = ManualClock::new();
/// let limiter = Limiter::from(LocalStore::new().clock(clock.clone()));
/// let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_second(1)));
/// let check = Check::new(&alice, &limits);
///
/// assert!(limiter.check(&check).await.is_allowed());
/// assert!(!limiter.check(&check).await.is_allowed());
/// clock.advance(Duration::from_secs(1));
/// assert!(limiter.check(&check).await.is_allowed());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Creates a clock that shows an instant of 2023.
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_700_000_000_000_000)))
    }

    /// Sets the time, in microseconds since the Unix epoch. It may be earlier than the current time.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::SeqCst);
    }

    /// Advances the clock.
    pub fn advance(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
