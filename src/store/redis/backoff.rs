use std::time::Duration;

use tokio::time::Instant;

use crate::random;

const INITIAL_DELAY: Duration = Duration::from_millis(10);
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Exponential back-off, with jitter, between attempts to reach a server.
#[derive(Default)]
pub(super) struct Backoff {
    delay: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Returns whether the next attempt must still wait.
    pub(super) fn is_active(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Records the result of an attempt.
    pub(super) fn record(&mut self, succeeded: bool) {
        if succeeded {
            *self = Self::default();
        } else {
            self.delay = (2 * self.delay).clamp(INITIAL_DELAY, MAX_DELAY);
            self.until = Some(Instant::now() + random::with_jitter(self.delay));
        }
    }
}
