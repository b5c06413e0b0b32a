//! The token bucket, as the generic cell rate algorithm (GCRA, ITU-T I.371): instead of a level that
//! must be refilled, the state is the instant at which the bucket is full again.
//!
//! A token takes `period / limit` microseconds to refill, which is rarely a whole number. It is kept
//! as a fraction in lowest terms, `numerator / denominator`, and instants as whole microseconds plus
//! `fraction / denominator`. Spans and instants are compared as pairs, so no product exceeds
//! `(burst + queue) * denominator`.
//!
//! A bucket with a queue is a leaky bucket used as a queue: it lends up to `queue` tokens beyond its
//! burst, and a charge that borrows waits until its tokens have been refilled. Charges are served in
//! the order in which they were made, since each is charged to the same debt.

use std::time::Duration;

use super::error::QuotaFlaw;
use super::state::{NEVER, State, Status};

/// 2^53: doubles, the only numbers of Lua in Redis, represent every smaller integer exactly.
pub(super) const MAX_EXACT: u128 = 1 << 53;

/// Ten years with leap days, in microseconds.
pub(super) const MAX_PERIOD: u128 = 3_653 * 86_400 * 1_000_000;

/// The longest delay of a queue, in microseconds: one hour. It fits in 32 bits, as
/// [`Status`] stores it.
const MAX_DELAY: u128 = 3_600 * 1_000_000;

/// A length of time: `whole + fraction / denominator` microseconds, `fraction < denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    pub(super) whole: u64,
    pub(super) fraction: u64,
}

impl Span {
    pub(super) const ZERO: Self = Self {
        whole: 0,
        fraction: 0,
    };
    const NEVER: Self = Self {
        whole: NEVER,
        fraction: 0,
    };
}

/// The result of [`TokenBucket::charge`].
#[derive(Clone, Copy)]
pub(crate) struct Charge {
    /// The state to keep.
    pub(crate) next: State,
    /// How long until the bucket is full.
    debt: Span,
    /// How long until the cost fits: zero for an admitted charge.
    excess: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenBucket {
    pub(super) limit: u32,
    pub(super) burst: u32,
    /// The number of tokens that are lent beyond the burst.
    pub(super) queue: u32,
    /// How long a reservation lasts at least without renewal, in milliseconds. 0: the bucket does not
    /// reserve.
    pub(super) reserve_ttl: u64,
    /// Microseconds.
    pub(super) period: u64,
    /// `period / limit` in lowest terms is `numerator / denominator`.
    denominator: u64,
    numerator: u64,
    /// The refill time of one token.
    pub(super) token_time: Span,
    /// The refill time of an empty bucket.
    pub(super) fill_time: Span,
    /// The largest debt that a state may have: see [`max_tokens`](TokenBucket::max_tokens).
    pub(super) max_debt: Span,
}

impl TokenBucket {
    pub(super) const fn new(
        limit: u32,
        period: u64,
        burst: u32,
        queue: u32,
        reserve_ttl: u64,
    ) -> Result<Self, QuotaFlaw> {
        if queue > 0 && reserve_ttl > 0 {
            return Err(QuotaFlaw::ReservingQueue);
        }
        if limit == 0 {
            return Err(QuotaFlaw::ZeroLimit);
        }
        if burst == 0 {
            return Err(QuotaFlaw::ZeroBurst);
        }
        let divisor = greatest_common_divisor(limit as u64, period);
        let (denominator, numerator) = (limit as u64 / divisor, period / divisor);
        let fill = burst as u128 * numerator as u128;
        if fill > MAX_PERIOD * denominator as u128 {
            return Err(QuotaFlaw::FillTooLong {
                seconds: (fill / denominator as u128 / 1_000_000) as u64,
            });
        }
        let queued = queue as u128 * numerator as u128;
        if queued > MAX_DELAY * denominator as u128 {
            return Err(QuotaFlaw::QueueTooLong {
                queue,
                seconds: queued.div_ceil(denominator as u128 * 1_000_000) as u64,
            });
        }
        let overdraft = if reserve_ttl > 0 { fill } else { 0 };
        Ok(Self {
            limit,
            burst,
            queue,
            reserve_ttl,
            period,
            denominator,
            numerator,
            token_time: span(numerator as u128, denominator),
            fill_time: span(fill, denominator),
            max_debt: span(fill + queued + overdraft, denominator),
        })
    }

    /// Checks that every product of the arithmetic stays below 2^53. [`new`](TokenBucket::new) does
    /// not call it, since a bucket whose burst is the limit may be exact only with the smaller
    /// burst that is set next.
    pub(super) const fn check_exact(&self) -> Result<(), QuotaFlaw> {
        let tokens = self.max_tokens();
        if tokens as u128 * self.denominator as u128 >= MAX_EXACT {
            return Err(QuotaFlaw::Inexact {
                factors: [tokens, self.denominator],
            });
        }
        Ok(())
    }

    /// Returns the largest number of tokens in a debt: an empty bucket with a full queue, or two empty
    /// buckets if charges may be settled above their cost.
    pub(super) const fn max_tokens(&self) -> u64 {
        let overdraft = if self.reserve_ttl > 0 { self.burst } else { 0 };
        self.burst as u64 + self.queue as u64 + overdraft as u64
    }

    /// Returns the time to fill an empty bucket, if it is a whole number of microseconds.
    pub(super) const fn whole_fill_time(&self) -> Option<u64> {
        if self.fill_time.fraction == 0 {
            Some(self.fill_time.whole)
        } else {
            None
        }
    }

    /// Returns the denominator of every fraction of a microsecond in this bucket's states.
    pub(super) fn denominator(&self) -> u64 {
        self.denominator
    }

    /// Returns the refill time of one token: whole microseconds, and the numerator of the rest.
    #[cfg(feature = "redis")]
    pub(super) fn token_time(&self) -> [u64; 2] {
        [self.token_time.whole, self.token_time.fraction]
    }

    #[inline]
    pub(super) fn step(
        &self,
        state: State,
        now: u64,
        cost: u32,
        max_wait: Duration,
    ) -> (State, Status) {
        if self.queue > 0 {
            return self.step_with_queue(state, now, cost, max_wait);
        }
        let charge = self.charge(state, now, cost);
        (charge.next, self.status(charge))
    }

    #[cold]
    fn step_with_queue(
        &self,
        state: State,
        now: u64,
        cost: u32,
        max_wait: Duration,
    ) -> (State, Status) {
        let charge = self.charge_within(state, now, cost, self.debt_within(max_wait));
        let in_bucket = charge.debt.min(self.fill_time);
        let borrowed = self.subtract(charge.debt, in_bucket);
        let is_charged = cost > 0 && charge.excess == Span::ZERO;
        let status = Status {
            remaining: self.remaining(in_bucket).0,
            // At most `MAX_DELAY`, which fits.
            delay: if is_charged {
                round_up(borrowed) as u32
            } else {
                0
            },
            retry_after: round_up(charge.excess),
            reset_after: round_up(charge.debt),
        };
        (charge.next, status)
    }

    /// Returns the largest debt that a charge may reach if it waits for at most `max_wait`.
    fn debt_within(&self, max_wait: Duration) -> Span {
        let max_wait = max_wait.as_micros().min(MAX_DELAY) as u64;
        let debt = Span {
            whole: self.fill_time.whole + max_wait,
            ..self.fill_time
        };
        debt.min(self.max_debt)
    }

    /// Returns the largest debt that a charge of `cost` may reach, as whole microseconds and the
    /// numerator of the rest: zero if the cost exceeds the burst.
    #[cfg(feature = "redis")]
    pub(super) fn max_debt_of(&self, cost: u32, max_wait: Duration) -> [u64; 2] {
        match cost <= self.burst {
            true => {
                let Span { whole, fraction } = self.debt_within(max_wait);
                [whole, fraction]
            }
            false => [0, 0],
        }
    }

    /// Charges `cost` to a bucket without a queue, if it fits. [`status`](TokenBucket::status) computes
    /// what remains.
    #[inline(always)]
    pub(crate) fn charge(&self, state: State, now: u64, cost: u32) -> Charge {
        self.charge_within(state, now, cost, self.fill_time)
    }

    /// Charges `cost` if the debt does not exceed `max_debt` afterwards.
    #[inline(always)]
    fn charge_within(&self, state: State, now: u64, cost: u32, max_debt: Span) -> Charge {
        let (debt, state) = self.debt(state, now);
        let denied = |excess| Charge {
            next: state,
            debt,
            excess,
        };
        if cost == 0 {
            return denied(Span::ZERO);
        }
        if cost > self.burst {
            return denied(Span::NEVER);
        }
        let charged = self.add(debt, self.price(cost));
        if charged > max_debt {
            return denied(self.subtract(charged, max_debt));
        }
        Charge {
            next: state_at(now, charged),
            debt: charged,
            excess: Span::ZERO,
        }
    }

    fn status(&self, charge: Charge) -> Status {
        Status {
            remaining: self.remaining(charge.debt).0,
            delay: 0,
            retry_after: round_up(charge.excess),
            reset_after: round_up(charge.debt),
        }
    }

    /// Returns the status after a charge by a clock that lags by at most `max_lag` microseconds, or
    /// `None` if one more token may have been refilled by the exact time.
    #[inline(always)]
    pub(crate) fn status_if_exact(&self, charge: Charge, max_lag: u64) -> Option<Status> {
        let (remaining, missing) = self.remaining(charge.debt);
        let max_lag = max_lag * self.denominator;
        let is_exact = max_lag == 0
            || missing > max_lag
            // Tokens that refill within the lag make `remaining` approximate in any case.
            || max_lag > self.numerator
            || charge.debt == Span::ZERO;
        is_exact.then_some(Status {
            remaining,
            delay: 0,
            retry_after: round_up(charge.excess),
            reset_after: round_up(charge.debt),
        })
    }

    /// Returns whether `state` may have been written later than `now`: its debt at `now` is a full
    /// bucket or more. A smaller debt is the same at `now`, whenever it was charged.
    #[inline]
    pub(crate) fn is_ahead(&self, state: State, now: u64) -> bool {
        state.until.saturating_sub(now) >= self.fill_time.whole
    }

    /// Returns whether the charge was denied and stays denied for more than `time` microseconds.
    #[inline]
    pub(crate) fn denies_for(&self, charge: &Charge, time: u64) -> bool {
        charge.excess.whole > time
    }

    pub(super) fn join(&self, a: State, b: State, now: u64) -> State {
        let (a_debt, a) = self.debt(a, now);
        let (b_debt, b) = self.debt(b, now);
        if b_debt > a_debt { b } else { a }
    }

    /// Returns the longest lifetime of a state, in microseconds (rounded down).
    pub(crate) fn lifetime(&self) -> u64 {
        self.max_debt.whole
    }

    /// Returns the used share of the bucket and its queue: 0 for a full bucket, 255 for an empty one
    /// with a full queue.
    pub(super) fn used(&self, state: State, now: u64) -> u8 {
        let full = self.max_debt.whole;
        let debt = state.until.saturating_sub(now).min(full);
        // A bucket fills in at most ten years, so the product does not overflow.
        (debt * 255 / full.max(1)) as u8
    }

    /// Returns how long the bucket takes to be full at `now`, and the state. More than the largest debt
    /// means that the clock has stepped back since the state was written: the debt is then taken to be
    /// the largest one at `now`.
    #[inline(always)]
    pub(super) fn debt(&self, state: State, now: u64) -> (Span, State) {
        let Some(whole) = state.until.checked_sub(now) else {
            return (Span::ZERO, state);
        };
        let debt = Span {
            whole,
            fraction: state.rest.min(self.denominator - 1),
        };
        if debt > self.max_debt {
            (self.max_debt, state_at(now, self.max_debt))
        } else {
            (debt, state)
        }
    }

    /// Returns the number of whole tokens, and how long until the next one in units of
    /// `1 / denominator` microseconds.
    #[inline(always)]
    pub(super) fn remaining(&self, debt: Span) -> (u32, u64) {
        let filled = self.subtract(self.fill_time, debt);
        let units = filled.whole.checked_mul(self.denominator);
        match units.and_then(|units| units.checked_add(filled.fraction)) {
            Some(units) => (
                (units / self.numerator) as u32,
                self.numerator - units % self.numerator,
            ),
            // The quotient fits in 32 bits: it is at most `burst`.
            None => {
                let (numerator, denominator) =
                    (u128::from(self.numerator), u128::from(self.denominator));
                let units = u128::from(filled.whole) * denominator + u128::from(filled.fraction);
                (
                    (units / numerator) as u32,
                    self.numerator - (units % numerator) as u64,
                )
            }
        }
    }

    /// Returns the refill time of `cost` tokens. `cost` is at most the burst, so both products are
    /// exact.
    pub(super) fn price(&self, cost: u32) -> Span {
        if cost == 1 {
            // The common case needs no division.
            return self.token_time;
        }
        let cost = u64::from(cost);
        let units = cost * self.token_time.fraction;
        Span {
            whole: cost * self.token_time.whole + units / self.denominator,
            fraction: units % self.denominator,
        }
    }

    pub(super) fn add(&self, a: Span, b: Span) -> Span {
        let fraction = a.fraction + b.fraction;
        let carry = u64::from(fraction >= self.denominator);
        Span {
            whole: a.whole + b.whole + carry,
            fraction: fraction - carry * self.denominator,
        }
    }

    /// Returns `a - b`, for `b` at most `a`.
    pub(super) fn subtract(&self, a: Span, b: Span) -> Span {
        let borrow = u64::from(a.fraction < b.fraction);
        Span {
            whole: a.whole - b.whole - borrow,
            fraction: a.fraction + borrow * self.denominator - b.fraction,
        }
    }
}

pub(super) fn state_at(now: u64, debt: Span) -> State {
    State {
        until: now.saturating_add(debt.whole),
        rest: debt.fraction,
    }
}

const fn span(numerator: u128, denominator: u64) -> Span {
    Span {
        whole: (numerator / denominator as u128) as u64,
        fraction: (numerator % denominator as u128) as u64,
    }
}

/// Returns the span in whole microseconds, rounded up.
pub(super) fn round_up(span: Span) -> u64 {
    span.whole + u64::from(span.fraction > 0)
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
