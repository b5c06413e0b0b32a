//! Reservations of a token bucket: charges that are kept apart from its debt until they are settled.
//!
//! A reservation does not refill, so that a settled request is charged exactly what it used, whenever it
//! is settled. The reserved cost is the high half of a state's second word.

use super::state::{NEVER, State, Status};
use super::token_bucket::{Span, TokenBucket, round_up, state_at};

impl TokenBucket {
    /// Charges `cost` if it fits beside the debt and the reserved cost: as a reservation if `reserves`, and
    /// otherwise as debt.
    pub(super) fn step_reserving(
        &self,
        state: State,
        now: u64,
        cost: u32,
        reserves: bool,
    ) -> (State, Status) {
        let reserved = state.reserved();
        let (debt, unreserved) = self.debt(state.with_reserved(0), now);
        let unchanged = unreserved.with_reserved(reserved);
        let total = self.add(debt, self.price(reserved));
        let status = |total: Span, retry_after| {
            let in_bucket = total.min(self.fill_time);
            Status {
                remaining: self.remaining(in_bucket).0,
                delay: 0,
                retry_after,
                reset_after: round_up(total),
            }
        };
        if cost == 0 {
            return (unchanged, status(total, 0));
        }
        if cost > self.burst {
            return (unchanged, status(total, NEVER));
        }
        let price = self.price(cost);
        let charged = self.add(total, price);
        if charged > self.fill_time {
            // When a reservation is settled is unknown, so the wait follows from the debt alone.
            let alone = self.add(debt, price);
            let wait = match alone > self.fill_time {
                true => self.subtract(alone, self.fill_time),
                false => Span::ZERO,
            };
            let wait = wait.max(self.token_time);
            return (unchanged, status(total, round_up(wait)));
        }
        let next = match reserves {
            true => unreserved.with_reserved(reserved.saturating_add(cost)),
            false => state_at(now, self.add(debt, price)).with_reserved(reserved),
        };
        (next, status(charged, 0))
    }

    /// Ends a reservation of `reserved` and charges `used` as debt, even above the limit. At most twice a
    /// full bucket is kept.
    pub(super) fn settle(&self, state: State, now: u64, reserved: u32, used: u32) -> State {
        let left = state.reserved().saturating_sub(reserved);
        let (debt, unreserved) = self.debt(state.with_reserved(0), now);
        if used == 0 {
            return unreserved.with_reserved(left);
        }
        // The price of a larger cost may not be exact.
        let used = u64::from(used).min(self.max_tokens()) as u32;
        let charged = self.add(debt, self.price(used)).min(self.max_debt);
        state_at(now, charged).with_reserved(left)
    }
}
