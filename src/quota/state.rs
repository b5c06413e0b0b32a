use std::time::Duration;

/// What a store keeps of one identity under one quota: sixteen bytes, to be kept as they are.
///
/// Only [`Quota`](crate::Quota)'s methods give the two words a meaning. The default state is that
/// of an identity never seen. A state belongs to the quota that made it: under another quota it
/// decides something arbitrary, though never with a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// When this state is as good as none, in microseconds since the Unix epoch (rounded down).
    pub(super) until: u64,
    /// Token bucket: the fraction of a microsecond that `until` leaves out. Windows: the counts of
    /// the window before (high half) and of this one (low half).
    pub(super) rest: u64,
}

impl State {
    /// The state as two integers, for a store that writes it down.
    pub const fn words(self) -> [u64; 2] {
        [self.until, self.rest]
    }

    /// The state that [`words`](State::words) took apart. Any two integers make some state.
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self {
            until: words[0],
            rest: words[1],
        }
    }

    /// When the state means nothing any more and may be forgotten without loss, in microseconds
    /// since the Unix epoch. At most one microsecond late, never early.
    pub const fn expires_at(self) -> u64 {
        self.until.saturating_add((self.rest > 0) as u64)
    }

    /// Whether the state may be forgotten at `now` (microseconds since the Unix epoch).
    pub const fn is_expired(self, now: u64) -> bool {
        self.expires_at() <= now
    }
}

/// What one quota says of one check: let through or not, and what is left afterwards.
///
/// A policy that would have let the check through, had not another policy denied it, reports what
/// it has left uncharged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub(super) remaining: u32,
    /// Microseconds; 0 when allowed, [`NEVER`] when no wait helps.
    pub(super) retry_after: u64,
    /// Microseconds.
    pub(super) reset_after: u64,
}

/// The wait of a check whose cost is above the capacity.
pub(super) const NEVER: u64 = u64::MAX;

impl Status {
    /// Whether this quota lets the check through.
    pub const fn is_allowed(&self) -> bool {
        self.retry_after == 0
    }

    /// How much cost the quota would still admit at this instant.
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long to wait until the same check fits, if nothing else is charged meanwhile.
    ///
    /// Exact to the microsecond: earlier it would be denied again. Zero for an allowed check;
    /// `None` where the cost is above the quota's capacity, so that no wait helps.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.retry_after {
            NEVER => None,
            wait => Some(Duration::from_micros(wait)),
        }
    }

    /// How long until the whole quota is available again, if nothing else is charged meanwhile.
    pub const fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after)
    }

    /// The same status where each unit of cost is charged as `unit`.
    pub(crate) const fn in_units_of(mut self, unit: u32) -> Self {
        self.remaining /= unit;
        self
    }

    /// A refusal that says nothing of any count, since none could be read.
    pub(crate) const fn refused(wait: Duration) -> Self {
        let wait = wait.as_micros() as u64;
        Self {
            remaining: 0,
            retry_after: wait,
            reset_after: wait,
        }
    }
}
