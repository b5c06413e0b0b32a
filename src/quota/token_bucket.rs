//! The token bucket, kept as the generic cell rate algorithm (GCRA, ITU-T I.371): instead of a
//! level that must be refilled, the state is the instant at which the bucket is full again.
//!
//! A token takes `period / limit` microseconds, which is rarely a whole number. It is kept as a
//! fraction in lowest terms, `per / num`, and instants as whole microseconds plus `part / num`.
//! Spans and instants are compared as pairs, so no product exceeds `burst * num`.

#[cfg(feature = "redis")]
use super::numbers::Numbers;
use super::state::{NEVER, State, Status};
use crate::error::QuotaFlaw;

/// 2^53: up to here a double, which is every number Lua has, counts exactly.
pub(super) const EXACT: u128 = 1 << 53;

/// Ten years, leap days included, in microseconds.
pub(super) const LONGEST: u128 = 3_653 * 86_400 * 1_000_000;

/// A length of time: `whole + part / num` microseconds, `part < num`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Span {
    whole: u64,
    part: u64,
}

impl Span {
    const ZERO: Self = Self { whole: 0, part: 0 };
    /// What no wait makes up for.
    const NEVER: Self = Self {
        whole: NEVER,
        part: 0,
    };
}

/// A decision: by how much the price exceeds what there is, which is nothing if it was charged.
#[derive(Clone, Copy)]
pub(crate) struct Charge {
    pub(crate) next: State,
    debt: Span,
    excess: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenBucket {
    pub(super) limit: u32,
    pub(super) burst: u32,
    /// Microseconds.
    pub(super) period: u64,
    /// `period / limit` in lowest terms is `per / num`.
    num: u64,
    per: u64,
    token: Span,
    full: Span,
}

impl TokenBucket {
    pub(super) const fn new(limit: u32, period: u64, burst: u32) -> Result<Self, QuotaFlaw> {
        if limit == 0 {
            return Err(QuotaFlaw::ZeroLimit);
        }
        if burst == 0 {
            return Err(QuotaFlaw::ZeroBurst);
        }
        let divisor = greatest_common_divisor(limit as u64, period);
        let (num, per) = (limit as u64 / divisor, period / divisor);
        let fill = burst as u128 * per as u128;
        if fill > LONGEST * num as u128 {
            return Err(QuotaFlaw::FillTooLong {
                seconds: (fill / num as u128 / 1_000_000) as u64,
            });
        }
        let token = Span {
            whole: per / num,
            part: per % num,
        };
        let full = Span {
            whole: (fill / num as u128) as u64,
            part: (fill % num as u128) as u64,
        };
        Ok(Self {
            limit,
            burst,
            period,
            num,
            per,
            token,
            full,
        })
    }

    /// Checks that every product of the arithmetic stays below 2^53. It is not part of
    /// [`new`](TokenBucket::new), since a bucket whose burst is the limit may be exact only with the
    /// smaller burst that is set next.
    pub(super) const fn check_exact(&self) -> Result<(), QuotaFlaw> {
        if self.burst as u128 * self.num as u128 >= EXACT {
            return Err(QuotaFlaw::Inexact {
                factors: [self.burst as u64, self.num],
            });
        }
        Ok(())
    }

    /// The time to fill an empty bucket, if it is a whole number of microseconds.
    pub(super) const fn fill_time(&self) -> Option<u64> {
        if self.full.part == 0 {
            Some(self.full.whole)
        } else {
            None
        }
    }

    /// How many values an instant's fraction has.
    pub(super) fn parts(&self) -> u64 {
        self.num
    }

    #[cfg(feature = "redis")]
    pub(super) fn numbers(&self) -> Numbers {
        Numbers::TokenBucket {
            burst: self.burst,
            num: self.num,
            token: [self.token.whole, self.token.part],
        }
    }

    #[inline]
    pub(super) fn step(&self, state: State, now: u64, cost: u32) -> (State, Status) {
        let charge = self.charge(state, now, cost);
        (charge.next, self.report(charge))
    }

    /// Decides, and leaves it to [`report`](TokenBucket::report) to say what is left.
    #[inline(always)]
    pub(crate) fn charge(&self, state: State, now: u64, cost: u32) -> Charge {
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
        if charged > self.full {
            return denied(self.subtract(charged, self.full));
        }
        Charge {
            next: at(now, charged),
            debt: charged,
            excess: Span::ZERO,
        }
    }

    #[inline]
    fn report(&self, charge: Charge) -> Status {
        self.status(charge.debt, ceiling(charge.excess))
    }

    /// What is left after a charge, unless that may be one more within `late` microseconds.
    #[inline(always)]
    pub(crate) fn report_unless_late(&self, charge: Charge, late: u64) -> Option<Status> {
        let (remaining, missing) = self.remaining(charge.debt);
        let late = late * self.num;
        // More than one token a moment are not told apart by anybody.
        let is_sure = late == 0 || missing > late || late > self.per || charge.debt == Span::ZERO;
        is_sure.then_some(Status {
            remaining,
            retry_after: ceiling(charge.excess),
            reset_after: ceiling(charge.debt),
        })
    }

    /// Whether a state may have been written later than `now`: at `now` its debt would be a full
    /// bucket or more. A smaller debt is the same at `now`, whenever it was charged.
    #[inline]
    pub(crate) fn is_ahead(&self, state: State, now: u64) -> bool {
        state.until.saturating_sub(now) >= self.full.whole
    }

    /// Whether a charge was denied, and will be for as long as that from now on, in microseconds.
    #[inline]
    pub(crate) fn denies_for(&self, charge: &Charge, time: u64) -> bool {
        charge.excess.whole > time
    }

    pub(super) fn join(&self, one: State, other: State, now: u64) -> State {
        let (one_debt, one) = self.debt(one, now);
        let (other_debt, other) = self.debt(other, now);
        if other_debt > one_debt { other } else { one }
    }

    /// How long a state lasts, in whole microseconds.
    pub(crate) fn life(&self) -> u64 {
        self.full.whole
    }

    /// The part of the bucket that is empty, in parts of 255.
    pub(super) fn used(&self, state: State, now: u64) -> u8 {
        let debt = state.until.saturating_sub(now).min(self.full.whole);
        // A bucket fills in at most ten years, so the product is small enough.
        (debt * 255 / self.full.whole.max(1)) as u8
    }

    /// The bucket's deficit at `now`. More than a full bucket means that the clock has stepped
    /// back since the state was written: the debt is then a full bucket from now on.
    fn debt(&self, state: State, now: u64) -> (Span, State) {
        let Some(whole) = state.until.checked_sub(now) else {
            return (Span::ZERO, state);
        };
        let debt = Span {
            whole,
            part: state.rest.min(self.num - 1),
        };
        if debt > self.full {
            (self.full, at(now, self.full))
        } else {
            (debt, state)
        }
    }

    fn status(&self, debt: Span, retry_after: u64) -> Status {
        Status {
            remaining: self.remaining(debt).0,
            retry_after,
            reset_after: ceiling(debt),
        }
    }

    /// How many tokens there are, and what is missing of one more, in parts of a microsecond.
    #[inline(always)]
    fn remaining(&self, debt: Span) -> (u32, u64) {
        let left = self.subtract(self.full, debt);
        let parts = left.whole.checked_mul(self.num);
        match parts.and_then(|parts| parts.checked_add(left.part)) {
            Some(parts) => ((parts / self.per) as u32, self.per - parts % self.per),
            // At most `burst` tokens are left, so the quotient is small again.
            None => {
                let (per, num) = (u128::from(self.per), u128::from(self.num));
                let parts = u128::from(left.whole) * num + u128::from(left.part);
                ((parts / per) as u32, self.per - (parts % per) as u64)
            }
        }
    }

    /// What `cost` tokens take; `cost` is at most the burst, so both products stay exact.
    fn price(&self, cost: u32) -> Span {
        if cost == 1 {
            // Nearly always, and without a division.
            return self.token;
        }
        let cost = u64::from(cost);
        let parts = cost * self.token.part;
        Span {
            whole: cost * self.token.whole + parts / self.num,
            part: parts % self.num,
        }
    }

    fn add(&self, one: Span, other: Span) -> Span {
        let part = one.part + other.part;
        let carry = u64::from(part >= self.num);
        Span {
            whole: one.whole + other.whole + carry,
            part: part - carry * self.num,
        }
    }

    /// `one - other`, which the caller knows not to be negative.
    fn subtract(&self, one: Span, other: Span) -> Span {
        let borrow = u64::from(one.part < other.part);
        Span {
            whole: one.whole - other.whole - borrow,
            part: one.part + borrow * self.num - other.part,
        }
    }
}

fn at(now: u64, debt: Span) -> State {
    State {
        until: now.saturating_add(debt.whole),
        rest: debt.part,
    }
}

/// The span in whole microseconds, rounded up.
fn ceiling(span: Span) -> u64 {
    span.whole + u64::from(span.part > 0)
}

const fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}
