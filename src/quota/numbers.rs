//! Quotas and states as plain numbers, for a store that does the arithmetic elsewhere: the
//! script in Redis has the same functions as `token_bucket.rs` and `window.rs`.

use super::quota::{Kind, Quota};
use super::state::State;

/// What a quota's arithmetic is made of.
pub(crate) enum Numbers {
    /// A token takes `token[0] + token[1] / num` microseconds.
    TokenBucket {
        burst: u32,
        num: u64,
        token: [u64; 2],
    },
    /// The period in milliseconds.
    Window {
        sliding: bool,
        limit: u32,
        period: u64,
    },
}

impl Quota {
    pub(crate) fn numbers(&self) -> Numbers {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.numbers(),
            Kind::Window(window) => Numbers::Window {
                sliding: window.sliding,
                limit: window.limit,
                period: window.period,
            },
        }
    }

    /// How many numbers a state is made of elsewhere.
    pub(crate) fn numbers_of_state(&self) -> usize {
        match self.0 {
            Kind::TokenBucket(_) => 2,
            Kind::Window(_) => 3,
        }
    }

    /// The state made of such numbers, if they make one.
    pub(crate) fn state_from_numbers(&self, numbers: &[u64]) -> Option<State> {
        match (&self.0, numbers) {
            (Kind::TokenBucket(_), &[until, rest]) => Some(State { until, rest }),
            (Kind::Window(_), &[until, previous, current]) => {
                let [previous, current] = [previous, current].map(u32::try_from);
                let rest = u64::from(previous.ok()?) << 32 | u64::from(current.ok()?);
                Some(State { until, rest })
            }
            _ => None,
        }
    }

    /// A state in such numbers, joined by `:`, the first of them relative to `now`: a debt, or the
    /// start of its window from the start of this one. None where it counts for nothing.
    pub(crate) fn relative(&self, state: State, now: u64) -> Option<String> {
        if state.is_expired(now) {
            return None;
        }
        Some(match &self.0 {
            Kind::TokenBucket(_) => format!("{}:{}", state.until.checked_sub(now)?, state.rest),
            Kind::Window(window) => {
                let start = i128::from(window.start(state));
                let offset = start - i128::from(window.aligned(now / 1_000));
                format!("{offset}:{}:{}", state.rest >> 32, state.rest as u32)
            }
        })
    }
}
