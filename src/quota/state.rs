use std::time::Duration;

/// The state of one identity under one quota: sixteen bytes that a store keeps unchanged.
///
/// Only the methods of [`Quota`](crate::Quota) interpret the two words. The default state is that of
/// an identity without any charge. A state belongs to the quota that returned it: another quota
/// decides arbitrarily with it, but does not panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// When the state expires, in microseconds since the Unix epoch (rounded down).
    pub(super) until: u64,
    /// Token bucket: the fraction of a microsecond that `until` leaves out; if the bucket reserves, in the
    /// low half, below the reserved cost. Windows: the counts of the previous window (high half) and the
    /// current window (low half). Concurrency: the reserved cost (high half).
    pub(super) rest: u64,
}

impl State {
    /// Returns the state as two integers, for a store that serializes it.
    pub const fn words(self) -> [u64; 2] {
        [self.until, self.rest]
    }

    /// Restores a state from its [`words`](State::words). Any two integers are a valid state.
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self {
            until: words[0],
            rest: words[1],
        }
    }

    /// Returns the cost that is reserved in a state of a quota that reserves.
    pub(crate) const fn reserved(self) -> u32 {
        (self.rest >> 32) as u32
    }

    /// Returns the state of a quota that reserves with another reserved cost.
    pub(crate) const fn with_reserved(self, reserved: u32) -> Self {
        let fraction = self.rest & u32::MAX as u64;
        Self {
            until: self.until,
            rest: (reserved as u64) << 32 | fraction,
        }
    }

    /// Returns when the state expires, in microseconds since the Unix epoch: from then on it equals
    /// the default state. At most one microsecond late, never early.
    pub const fn expires_at(self) -> u64 {
        self.until.saturating_add((self.rest > 0) as u64)
    }

    /// Returns whether the state has expired at `now` (microseconds since the Unix epoch), so that a
    /// store may drop it.
    pub const fn is_expired(self, now: u64) -> bool {
        self.expires_at() <= now
    }
}

/// The result of one check under one quota: whether it is admitted, and what remains afterwards.
///
/// If one policy denies a check, the other policies report what remains without a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub(super) remaining: u32,
    /// Microseconds. A queue is served within an hour, which fits.
    pub(super) delay: u32,
    /// Microseconds: 0 when allowed, [`NEVER`] when the cost exceeds the capacity.
    pub(super) retry_after: u64,
    /// Microseconds.
    pub(super) reset_after: u64,
}

/// The `retry_after` of a check whose cost exceeds the capacity.
pub(super) const NEVER: u64 = u64::MAX;

impl Status {
    /// Returns whether this quota admits the check.
    pub const fn is_allowed(&self) -> bool {
        self.retry_after == 0
    }

    /// Returns how much cost the quota would still admit at this instant.
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Returns how long an admitted check must wait for its place in the quota's
    /// [queue](crate::Quota::queue): zero unless its tokens are still to be refilled.
    pub const fn delay(&self) -> Duration {
        Duration::from_micros(self.delay as u64)
    }

    /// Returns how long until the same check is admitted, if nothing else is charged meanwhile.
    ///
    /// The time is exact to the microsecond: an earlier retry is denied. It is zero for an allowed
    /// check, and `None` for a cost above the quota's capacity, which is never admitted. For a quota that
    /// [reserves](crate::Quota::reserve_for), the time is an estimate, since the time of a settlement is
    /// unknown: a second for a concurrency limit.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.retry_after {
            NEVER => None,
            wait => Some(Duration::from_micros(wait)),
        }
    }

    /// Returns how long until the whole quota is available again, if nothing else is charged
    /// meanwhile.
    pub const fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after)
    }

    /// Divides the remaining cost by what a cost of 1 is charged.
    pub(crate) const fn divide_remaining(mut self, unit: u32) -> Self {
        self.remaining /= unit;
        self
    }

    /// Returns the status as of this time later. The remaining cost is a lower bound.
    pub(crate) const fn after(mut self, time: Duration) -> Self {
        self.reset_after = self.reset_after.saturating_sub(time.as_micros() as u64);
        self
    }

    /// Sets the delay that the check would have.
    pub(crate) const fn delayed_like(mut self, charged: &Self) -> Self {
        self.delay = charged.delay;
        self
    }

    /// Creates the status of a check that was refused without reading any state.
    pub(crate) const fn refused(wait: Duration) -> Self {
        let wait = wait.as_micros() as u64;
        Self {
            remaining: 0,
            delay: 0,
            retry_after: wait,
            reset_after: wait,
        }
    }

    /// Creates the status of a check that can never be admitted.
    pub(crate) const fn never() -> Self {
        Self {
            remaining: 0,
            delay: 0,
            retry_after: NEVER,
            reset_after: 0,
        }
    }
}
