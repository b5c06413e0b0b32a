use std::time::Duration;

use tollgate::Decision;

/// The decision on a question, for every protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// The wait until the cost fits; `None` if it exceeds the capacity.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) reset_after: Duration,
    pub(crate) degraded: bool,
}

impl From<&Decision<'_>> for Answer {
    fn from(decision: &Decision<'_>) -> Self {
        Self {
            allowed: decision.is_allowed(),
            limit: decision.capacity(),
            remaining: decision.remaining(),
            retry_after: decision.retry_after(),
            reset_after: decision.reset_after(),
            degraded: decision.is_degraded(),
        }
    }
}

/// Whole milliseconds, rounded up: never so few that it is still too early.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    let milliseconds = duration.as_micros().div_ceil(1_000);
    u64::try_from(milliseconds).unwrap_or(u64::MAX)
}
