//! A store's clock that follows Tokio's paused clock, for tests of waits in virtual time.

use tokio::time::Instant;
use tollgate::{Clock, LocalStore};

struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> u64 {
        1_700_000_000_000_000 + self.0.elapsed().as_micros() as u64
    }
}

/// Returns a store whose time is that of the paused runtime.
pub(crate) fn virtual_store() -> LocalStore {
    LocalStore::new().clock(VirtualClock(Instant::now()))
}
