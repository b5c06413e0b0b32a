use std::time::Duration;

use tokio::time::Instant;

use crate::random;

/// The first wait after an attempt that failed, and the longest.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// Keeps attempts to reach a server apart: twice as long after each that fails, and of that a random
/// part.
#[derive(Default)]
pub(super) struct Backoff {
    wait: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Whether to wait before another attempt.
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes note of how an attempt went.
    pub(super) fn report(&mut self, succeeded: bool) {
        if succeeded {
            *self = Self::default();
        } else {
            self.wait = (2 * self.wait).clamp(FIRST, LONGEST);
            self.until = Some(Instant::now() + random::with_jitter(self.wait));
        }
    }
}
