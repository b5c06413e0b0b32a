//! The concurrency limit: reservations without a debt.

use super::error::QuotaFlaw;
use super::state::{NEVER, State, Status};

/// The `retry_after` of a denial, in microseconds: the time at which a slot becomes free is unknown.
const RETRY_AFTER: u64 = 1_000_000;

/// A limit of the cost that is in flight at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Concurrency {
    pub(super) limit: u32,
    /// How long a slot stays taken without renewal, at least, in milliseconds.
    pub(super) ttl: u64,
}

impl Concurrency {
    pub(super) const fn new(limit: u32, ttl: u64) -> Result<Self, QuotaFlaw> {
        if limit == 0 {
            return Err(QuotaFlaw::ZeroLimit);
        }
        Ok(Self { limit, ttl })
    }

    /// Takes slots for `cost` if they are free. Without `reserves`, only tells whether they are.
    pub(super) fn step(&self, state: State, cost: u32, reserves: bool) -> (State, Status) {
        let reserved = state.reserved();
        let taken = reserved.saturating_add(cost);
        let (next, retry_after) = match cost {
            0 => (reserved, 0),
            _ if cost > self.limit => (reserved, NEVER),
            _ if taken > self.limit => (reserved, RETRY_AFTER),
            _ if reserves => (taken, 0),
            _ => (reserved, 0),
        };
        let status = Status {
            remaining: self.limit.saturating_sub(next),
            delay: 0,
            retry_after,
            reset_after: if next == 0 { 0 } else { RETRY_AFTER },
        };
        (State::default().with_reserved(next), status)
    }
}
