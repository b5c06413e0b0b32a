//! The form in which quotas and states are sent to the Redis script, which repeats the arithmetic
//! of `token_bucket.rs` and `window.rs`.

use std::time::Duration;

use super::quota::{Kind, Quota};
use super::state::State;

/// The numbers from which the script computes a quota's steps.
pub(crate) enum EncodedQuota {
    /// A token takes `token[0] + token[1] / denominator` microseconds.
    TokenBucket {
        /// The burst and the queue.
        tokens: u64,
        denominator: u64,
        token: [u64; 2],
    },
    /// A concurrency limit has no time of a token.
    Reserving {
        burst: u32,
        denominator: u64,
        token: [u64; 2],
        /// Milliseconds.
        ttl: u64,
    },
    /// The period is in milliseconds.
    Window {
        sliding: bool,
        limit: u32,
        period: u64,
    },
}

impl Quota {
    pub(crate) fn encode(&self) -> EncodedQuota {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.reserve_ttl > 0 => EncodedQuota::Reserving {
                burst: bucket.burst,
                denominator: bucket.denominator(),
                token: bucket.token_time(),
                ttl: bucket.reserve_ttl,
            },
            Kind::Concurrency(concurrency) => EncodedQuota::Reserving {
                burst: concurrency.limit,
                denominator: 1,
                token: [0, 0],
                ttl: concurrency.ttl,
            },
            Kind::TokenBucket(bucket) => EncodedQuota::TokenBucket {
                tokens: bucket.max_tokens(),
                denominator: bucket.denominator(),
                token: bucket.token_time(),
            },
            Kind::Window(window) => EncodedQuota::Window {
                sliding: window.sliding,
                limit: window.limit,
                period: window.period,
            },
        }
    }

    /// Returns the largest debt that a check may reach, as whole microseconds and the numerator of the
    /// rest. Returns `None` for a quota without a queue, where that is a full bucket.
    pub(crate) fn encode_max_debt(&self, cost: u32, max_wait: Duration) -> Option<[u64; 2]> {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.queue > 0 => {
                Some(bucket.max_debt_of(cost, max_wait))
            }
            _ => None,
        }
    }

    /// Returns how many numbers encode one state.
    pub(crate) fn encoded_state_len(&self) -> usize {
        match self.0 {
            _ if self.is_reserving() => 4,
            Kind::TokenBucket(_) => 2,
            _ => 3,
        }
    }

    /// Decodes a state. Returns `None` for a wrong number of numbers, or for a count above `u32::MAX`. The
    /// last number of a quota that reserves is not a part of the state.
    pub(crate) fn decode_state(&self, numbers: &[u64]) -> Option<State> {
        match (&self.0, numbers) {
            (_, &[until, rest, reserved, _]) if self.is_reserving() => {
                let state = State { until, rest };
                Some(state.with_reserved(u32::try_from(reserved).ok()?))
            }
            (Kind::TokenBucket(_), &[until, rest]) => Some(State { until, rest }),
            (Kind::Window(_), &[until, previous, current]) => {
                let [previous, current] = [previous, current].map(u32::try_from);
                let rest = u64::from(previous.ok()?) << 32 | u64::from(current.ok()?);
                Some(State { until, rest })
            }
            _ => None,
        }
    }

    /// Encodes a state relative to `now`, as numbers joined by `:`. The first number is a bucket's
    /// debt, or the start of a state's window relative to the start of the current window. Returns
    /// `None` for an expired state.
    pub(crate) fn encode_relative(&self, state: State, now: u64) -> Option<String> {
        if state.is_expired(now) {
            return None;
        }
        Some(match &self.0 {
            Kind::Concurrency(_) => return None,
            Kind::TokenBucket(_) => format!("{}:{}", state.until.checked_sub(now)?, state.rest),
            Kind::Window(window) => {
                let start = i128::from(window.start_of(state));
                let offset = start - i128::from(window.align(now / 1_000));
                format!("{offset}:{}:{}", state.rest >> 32, state.rest as u32)
            }
        })
    }
}
