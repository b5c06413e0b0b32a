use std::num::NonZeroU64;
use std::time::Duration;

use super::plan::Amount;

const SECOND: u128 = 1_000_000_000;

/// Which requests there are, and when each is due. Times are since the beginning.
#[derive(Debug)]
pub(super) struct Schedule {
    rate: Option<NonZeroU64>,
    amount: Amount,
}

impl Schedule {
    pub(super) fn new(amount: Amount, rate: Option<NonZeroU64>) -> Self {
        // At a rate it is known how many are due in that time. A server that falls behind is asked
        // the rest too: else its slowest answers would be those that are left out.
        let amount = match (amount, rate) {
            (Amount::For(time), Some(rate)) => Amount::Requests(due_before(rate, time.as_nanos())),
            _ => amount,
        };
        Self { rate, amount }
    }

    pub(super) fn amount(&self) -> Amount {
        self.amount
    }

    /// Whether there is a request of this number, counted from 0, if it can be sent now.
    pub(super) fn includes(&self, number: u64, now: Duration) -> bool {
        match self.amount {
            Amount::Requests(total) => number < total,
            Amount::For(time) => now < time,
        }
    }

    /// When a request is due, if there is a rate.
    pub(super) fn due(&self, number: u64) -> Option<Duration> {
        let nanoseconds = u128::from(number) * SECOND / u128::from(self.rate?.get());
        Some(Duration::from_nanos(saturated(nanoseconds)))
    }

    /// How many requests are due by now, if there is a rate.
    pub(super) fn due_by(&self, now: Duration) -> Option<u64> {
        let due = due_before(self.rate?, now.as_nanos() + 1);
        Some(match self.amount {
            Amount::Requests(total) => due.min(total),
            Amount::For(_) => due,
        })
    }
}

/// How many are due before so many nanoseconds have passed.
fn due_before(rate: NonZeroU64, nanoseconds: u128) -> u64 {
    saturated((nanoseconds * u128::from(rate.get())).div_ceil(SECOND))
}

fn saturated(number: u128) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: u64, amount: Amount) -> Schedule {
        Schedule::new(amount, NonZeroU64::new(rate))
    }

    #[test]
    fn requests_are_due_evenly() {
        let schedule = at(3, Amount::Requests(7));
        let due = (0..7).map(|number| schedule.due(number).expect("a rate").as_nanos());
        let expected = [
            0,
            333_333_333,
            666_666_666,
            1_000_000_000,
            1_333_333_333,
            1_666_666_666,
            2_000_000_000,
        ];
        assert_eq!(due.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_due_is_counted_to_the_nanosecond() {
        for rate in [1, 3, 7, 1_000, 3_000, 999_999_999, 10_000_000_000] {
            let schedule = at(rate, Amount::Requests(u64::MAX));
            for number in [0, 1, 2, 6, 1_000, 1_000_003] {
                let due = schedule.due(number).expect("a rate");
                let by = |time| schedule.due_by(time).expect("a rate");
                assert!(by(due) > number, "{rate} {number}");
                if let Some(before) = due.checked_sub(Duration::from_nanos(1)) {
                    assert!(by(before) <= number, "{rate} {number}");
                }
            }
        }
    }

    #[test]
    fn the_end_is_a_number_or_a_time() {
        let second = Duration::from_secs(1);
        let requests = at(0, Amount::Requests(2));
        assert!(requests.includes(1, 1_000 * second));
        assert!(!requests.includes(2, Duration::ZERO));
        assert_eq!(requests.due(1), None);
        let time = at(0, Amount::For(second));
        assert!(time.includes(1_000_000, second / 2));
        assert!(!time.includes(0, second));
        // Those that are due in time are sent however late it is.
        let both = at(3_000, Amount::For(2 * second));
        assert!(both.includes(5_999, 1_000 * second));
        assert!(!both.includes(6_000, Duration::ZERO));
        assert_eq!(both.due_by(1_000 * second), Some(6_000));
    }
}
