//! Checks recorded histories against limits, in exact integers and without the crate's arithmetic.

use std::time::Duration;

/// A cost, and the time at which it counts, in microseconds.
pub(crate) type Event = (u64, u32);

/// Returns whether no interval has more than a full bucket and what is refilled in it.
pub(crate) fn conforms_to_bucket(
    mut events: Vec<Event>,
    limit: u32,
    period: Duration,
    burst: u32,
) -> bool {
    events.sort_unstable();
    let (limit, period) = (u128::from(limit), period.as_micros());
    // The time at which the bucket is full, in units of 1 / limit microseconds.
    let mut full_at = 0;
    events.into_iter().all(|(time, cost)| {
        let now = u128::from(time) * limit;
        full_at = now.max(full_at) + u128::from(cost) * period;
        full_at - now <= u128::from(burst) * period
    })
}

/// Returns whether no clock window has more than `limit`.
pub(crate) fn conforms_to_window(events: &[Event], limit: u32, period: Duration) -> bool {
    let period = period.as_micros() as u64;
    events.iter().all(|(time, _)| {
        let in_window = events
            .iter()
            .filter(|(other, _)| other / period == time / period);
        in_window.map(|(_, cost)| u64::from(*cost)).sum::<u64>() <= u64::from(limit)
    })
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}
