//! The two window algorithms. Windows are aligned to the Unix epoch and measured in whole
//! milliseconds, so that every product is exact.
//!
//! The sliding window is a sliding window *counter*: the current window's count plus the previous
//! window's count, weighted by its overlap with the last period, as if its requests had been evenly
//! spread. Cloudflare described it in "How we built rate limiting capable of scaling to millions of
//! domains" (2017).

use super::error::QuotaFlaw;
use super::state::{NEVER, State, Status};
use super::token_bucket::MAX_EXACT;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Window {
    pub(super) limit: u32,
    /// Milliseconds.
    pub(super) period: u64,
    /// Whether the previous window counts, weighted by its overlap with the last period.
    pub(super) sliding: bool,
}

/// A state's counts at some instant.
#[derive(Clone, Copy)]
struct View {
    /// The start of the current window, in milliseconds since the Unix epoch.
    start: u64,
    /// Milliseconds since `start`.
    elapsed: u64,
    previous: u32,
    current: u32,
}

impl Window {
    pub(super) const fn new(limit: u32, period: u64, sliding: bool) -> Result<Self, QuotaFlaw> {
        if limit == 0 {
            return Err(QuotaFlaw::ZeroLimit);
        }
        // A fixed window only compares counts and multiplies nothing.
        if sliding && limit as u128 * period as u128 >= MAX_EXACT {
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
        let unchanged = if view.start < self.start_of(state) {
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
            let wait = micros_until(self.fits_at(view, cost), now);
            return (unchanged, self.status(view, now, wait));
        }
        let charged = View {
            current: view.current + cost,
            ..view
        };
        (self.state(charged), self.status(charged, now, 0))
    }

    pub(super) fn join(&self, a: State, b: State, now: u64) -> State {
        let (a, b) = (self.view(a, now), self.view(b, now));
        let start = a.start.max(b.start);
        let (a, b) = (self.roll(a, start), self.roll(b, start));
        self.state(View {
            previous: a.previous.max(b.previous),
            current: a.current.max(b.current),
            ..a
        })
    }

    /// Settles a charge of `charged` in the window that starts at `start` (milliseconds) at the cost `used`.
    ///
    /// The difference is refunded to that window, and to no other one. A cost above the charge is charged
    /// to the window of `now`, even above the limit.
    pub(super) fn settle(
        &self,
        state: State,
        now: u64,
        start: u64,
        charged: u32,
        used: u32,
    ) -> State {
        let mut view = self.view(state, now);
        let (returned, extra) = (charged.saturating_sub(used), used.saturating_sub(charged));
        if start == view.start {
            view.current = view.current.saturating_sub(returned);
        } else if start + self.period == view.start {
            view.previous = view.previous.saturating_sub(returned);
        }
        view.current = view.current.saturating_add(extra).min(self.max_count());
        self.state(view)
    }

    /// Returns the largest count of a window: twice the limit, after charges were settled above their cost,
    /// or less where a product would reach 2^53.
    const fn max_count(&self) -> u32 {
        let max_count = self.limit.saturating_mul(2);
        let max_exact = (MAX_EXACT as u64 - 1) / self.period;
        if self.sliding && max_exact < max_count as u64 {
            max_exact as u32
        } else {
            max_count
        }
    }

    /// Returns the used share of the limit by the larger of the two counts: 255 for all of it.
    pub(super) fn used(&self, state: State) -> u8 {
        let count = ((state.rest >> 32) as u32).max(state.rest as u32);
        (u64::from(count.min(self.limit)) * 255 / u64::from(self.limit)) as u8
    }

    /// Moves a state from one clock to another, at the same number of windows from the current one.
    pub(super) fn rebase(&self, state: State, from: u64, to: u64) -> State {
        let (from, to) = (self.align(from / 1_000), self.align(to / 1_000));
        let shift = |milliseconds: u64| milliseconds.saturating_sub(from).saturating_add(to);
        let start = self.start_of(state);
        let start = if start >= from {
            shift(start)
        } else {
            to.saturating_sub(from - start)
        };
        self.state_from(start, state.rest)
    }

    /// Returns the state's counts at `now`, rolled into the window of `now`.
    ///
    /// A state of the next window is viewed at that window's start. A state from further ahead means
    /// that the clock has stepped back: both counts are then charged to the current window, so that
    /// the step admits nothing extra.
    fn view(&self, state: State, now: u64) -> View {
        let now = now / 1_000;
        let current_start = self.align(now);
        let start = self.start_of(state);
        // This quota never writes a larger count; another quota's state may have one.
        let counts = [(state.rest >> 32) as u32, state.rest as u32];
        let [previous, current] = counts.map(|count| count.min(self.max_count()));
        let mut view = View {
            start,
            elapsed: 0,
            previous: if self.sliding { previous } else { 0 },
            current,
        };
        if start > current_start.saturating_add(self.period) {
            view.start = current_start;
            // At most the limit, unless one of the counts is larger.
            let bound = self.limit.max(view.current).max(view.previous);
            view.current = view.current.saturating_add(view.previous).min(bound);
            view.previous = 0;
        } else {
            view = self.roll(view, current_start);
        }
        view.elapsed = now.saturating_sub(view.start);
        view
    }

    /// Moves the view to the window at `start`, if that is later.
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

    /// Returns when a denied `cost` (at most the limit) fits, in milliseconds since the Unix epoch.
    fn fits_at(&self, view: View, cost: u32) -> u64 {
        let left = self.limit - cost;
        let end = view.start + self.period;
        if !self.sliding {
            return end;
        }
        match left.checked_sub(view.current) {
            // In the current window, once the previous one overlaps little enough.
            Some(left) => end - self.max_overlap(left, view.previous),
            // In the next window, whose previous count is the current one.
            None => end + self.period - self.max_overlap(left, view.current),
        }
    }

    /// Returns the longest overlap, in milliseconds, at which a previous count of `count` weighs at
    /// most `left`.
    fn max_overlap(&self, left: u32, count: u32) -> u64 {
        match count {
            0 => self.period,
            count => (product(left, self.period) / u64::from(count)).min(self.period),
        }
    }

    fn status(&self, view: View, now: u64, retry_after: u64) -> Status {
        let weighted = product(view.previous, self.period - view.elapsed);
        let used = weighted.div_ceil(self.period) + u64::from(view.current);
        let remaining = u64::from(self.limit).saturating_sub(used) as u32;
        let reset = match (view.current, view.previous) {
            (0, 0) => None,
            (0, _) => Some(view.start + self.period),
            _ if self.sliding => Some(view.start + 2 * self.period),
            _ => Some(view.start + self.period),
        };
        let reset_after = reset.map_or(0, |reset| micros_until(reset, now));
        Status {
            remaining,
            delay: 0,
            retry_after,
            reset_after,
        }
    }

    /// Returns the start of the window that contains `now` (milliseconds).
    pub(super) fn align(&self, now: u64) -> u64 {
        now - now % self.period
    }

    /// Returns how long after a window's start its count expires, in milliseconds.
    fn lifetime(&self) -> u64 {
        if self.sliding {
            2 * self.period
        } else {
            self.period
        }
    }

    /// Returns the start of a state's window, in milliseconds since the Unix epoch.
    pub(super) fn start_of(&self, state: State) -> u64 {
        (state.until / 1_000).saturating_sub(self.lifetime())
    }

    fn state_from(&self, start: u64, rest: u64) -> State {
        if rest == 0 {
            return State::default();
        }
        State {
            until: start.saturating_add(self.lifetime()).saturating_mul(1_000),
            rest,
        }
    }

    fn state(&self, view: View) -> State {
        let rest = u64::from(view.previous) << 32 | u64::from(view.current);
        self.state_from(view.start, rest)
    }
}

/// The product is below 2^53 in a sliding window, by [`Window::max_count`]. In a fixed window the count
/// is 0.
fn product(count: u32, milliseconds: u64) -> u64 {
    u64::from(count) * milliseconds
}

/// Returns the microseconds from `now` (microseconds) to `instant` (milliseconds).
fn micros_until(instant: u64, now: u64) -> u64 {
    instant.saturating_mul(1_000).saturating_sub(now)
}
