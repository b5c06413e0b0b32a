//! The two window algorithms. Windows are aligned to the Unix epoch and tick in whole
//! milliseconds, so that every product stays exact.
//!
//! The sliding window is the sliding window *counter*: this window's count plus that part of the
//! last window's that is still in view, taken as if it had come evenly. Cloudflare described it in
//! "How we built rate limiting capable of scaling to millions of domains" (2017).

use super::state::{NEVER, State, Status};
use super::token_bucket::EXACT;
use crate::error::QuotaFlaw;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Window {
    pub(super) limit: u32,
    /// Milliseconds.
    pub(super) period: u64,
    /// Whether the last window still counts for as much of it as is in view.
    pub(super) sliding: bool,
}

/// A state as seen at some instant: `start` and `elapsed` in milliseconds.
#[derive(Clone, Copy)]
struct View {
    start: u64,
    elapsed: u64,
    previous: u32,
    current: u32,
}

impl Window {
    pub(super) const fn new(limit: u32, period: u64, sliding: bool) -> Result<Self, QuotaFlaw> {
        if limit == 0 {
            return Err(QuotaFlaw::ZeroLimit);
        }
        // A fixed window only compares counts, so it has no product to keep exact.
        if sliding && limit as u128 * period as u128 >= EXACT {
            return Err(QuotaFlaw::Inexact {
                factors: [limit as u64, period],
            });
        }
        Ok(Self {
            limit,
            period,
            sliding,
        })
    }

    pub(super) fn step(&self, state: State, now: u64, cost: u32) -> (State, Status) {
        let view = self.view(state, now);
        let unchanged = if view.start < self.start(state) {
            self.state(view)
        } else {
            state
        };
        if cost == 0 {
            return (unchanged, self.status(view, now, 0));
        }
        if cost > self.limit {
            return (unchanged, self.status(view, now, NEVER));
        }
        if !self.fits(view, cost) {
            let wait = until(self.fits_at(view, cost), now);
            return (unchanged, self.status(view, now, wait));
        }
        let charged = View {
            current: view.current + cost,
            ..view
        };
        (self.state(charged), self.status(charged, now, 0))
    }

    pub(super) fn join(&self, one: State, other: State, now: u64) -> State {
        let (one, other) = (self.view(one, now), self.view(other, now));
        let start = one.start.max(other.start);
        let (one, other) = (self.roll(one, start), self.roll(other, start));
        self.state(View {
            previous: one.previous.max(other.previous),
            current: one.current.max(other.current),
            ..one
        })
    }

    /// The larger of the two windows' counts, in parts of 255 of the limit.
    pub(super) fn used(&self, state: State) -> u8 {
        let count = ((state.rest >> 32) as u32).max(state.rest as u32);
        (u64::from(count.min(self.limit)) * 255 / u64::from(self.limit)) as u8
    }

    /// Moves a state from one clock to another: as many windows ago as it was.
    pub(super) fn rebase(&self, state: State, from: u64, to: u64) -> State {
        let (from, to) = (self.aligned(from / 1_000), self.aligned(to / 1_000));
        let shift = |milliseconds: u64| milliseconds.saturating_sub(from).saturating_add(to);
        let start = self.start(state);
        let start = if start >= from {
            shift(start)
        } else {
            to.saturating_sub(from - start)
        };
        self.state_from(start, state.rest)
    }

    /// The state as it counts at `now`: rolled into the window of `now`. Where it is from the
    /// next window the clock stands at that window's start. From further ahead, the clock has
    /// stepped back: both counts are taken to be this window's, so that nothing is minted.
    fn view(&self, state: State, now: u64) -> View {
        let now = now / 1_000;
        let current_start = self.aligned(now);
        let start = self.start(state);
        // A count above the limit was never written by this quota: it is as good as the limit.
        let [last, this] = [(state.rest >> 32) as u32, state.rest as u32];
        let mut view = View {
            start,
            elapsed: 0,
            previous: if self.sliding {
                last.min(self.limit)
            } else {
                0
            },
            current: this.min(self.limit),
        };
        if start > current_start.saturating_add(self.period) {
            view.start = current_start;
            view.current = view.current.saturating_add(view.previous).min(self.limit);
            view.previous = 0;
        } else {
            view = self.roll(view, current_start);
        }
        view.elapsed = now.saturating_sub(view.start);
        view
    }

    /// The view as of the window at `start`, if that is a later one.
    fn roll(&self, view: View, start: u64) -> View {
        if view.start >= start {
            return view;
        }
        let still_counts = self.sliding && start - view.start == self.period;
        View {
            start,
            elapsed: 0,
            previous: if still_counts { view.current } else { 0 },
            current: 0,
        }
    }

    fn fits(&self, view: View, cost: u32) -> bool {
        let left = self.limit.checked_sub(cost);
        match left.and_then(|left| left.checked_sub(view.current)) {
            Some(left) if self.sliding => {
                product(view.previous, self.period - view.elapsed) <= product(left, self.period)
            }
            left => left.is_some(),
        }
    }

    /// The first millisecond since the epoch at which a denied `cost` (at most the limit) fits.
    fn fits_at(&self, view: View, cost: u32) -> u64 {
        let left = self.limit - cost;
        let end = view.start + self.period;
        if !self.sliding {
            return end;
        }
        match left.checked_sub(view.current) {
            // Within this window, once little enough of the last one is in view.
            Some(left) => end - self.in_view(left, view.previous),
            // Within the next window, where this one's count is the last one's.
            None => end + self.period - self.in_view(left, view.current),
        }
    }

    /// How many milliseconds of a window that counted `count` may be in view for it to weigh no
    /// more than `left`.
    fn in_view(&self, left: u32, count: u32) -> u64 {
        match count {
            0 => self.period,
            count => (product(left, self.period) / u64::from(count)).min(self.period),
        }
    }

    fn status(&self, view: View, now: u64, retry_after: u64) -> Status {
        let seen = product(view.previous, self.period - view.elapsed);
        let used = seen.div_ceil(self.period) + u64::from(view.current);
        let remaining = u64::from(self.limit).saturating_sub(used) as u32;
        let reset = match (view.current, view.previous) {
            (0, 0) => None,
            (0, _) => Some(view.start + self.period),
            _ if self.sliding => Some(view.start + 2 * self.period),
            _ => Some(view.start + self.period),
        };
        let reset_after = reset.map_or(0, |reset| until(reset, now));
        Status {
            remaining,
            retry_after,
            reset_after,
        }
    }

    pub(super) fn aligned(&self, now: u64) -> u64 {
        now - now % self.period
    }

    /// How long after its start a window's count means nothing any more.
    pub(super) fn life(&self) -> u64 {
        if self.sliding {
            2 * self.period
        } else {
            self.period
        }
    }

    pub(super) fn start(&self, state: State) -> u64 {
        (state.until / 1_000).saturating_sub(self.life())
    }

    fn state_from(&self, start: u64, rest: u64) -> State {
        if rest == 0 {
            return State::default();
        }
        State {
            until: start.saturating_add(self.life()).saturating_mul(1_000),
            rest,
        }
    }

    fn state(&self, view: View) -> State {
        let rest = u64::from(view.previous) << 32 | u64::from(view.current);
        self.state_from(view.start, rest)
    }
}

/// Below 2^53 in a sliding window, since the count is at most the limit and the time at most the
/// period. In a fixed window the count is 0.
fn product(count: u32, milliseconds: u64) -> u64 {
    u64::from(count) * milliseconds
}

/// From `now` (microseconds) to `instant` (milliseconds), in microseconds.
fn until(instant: u64, now: u64) -> u64 {
    instant.saturating_mul(1_000).saturating_sub(now)
}
