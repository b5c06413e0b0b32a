//! What a load asks, and when each request is due.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tollgate::Quota;

use super::client::Address;

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    Requests(u64),
    For(Duration),
}

/// What is asked, of whom, and how fast.
#[derive(Debug)]
pub(crate) struct Plan {
    /// At least one. They are asked in turn.
    pub(crate) servers: Vec<Address>,
    pub(crate) token: Option<String>,
    pub(crate) amount: Amount,
    /// How many requests may be without an answer at a time.
    pub(crate) in_flight: u32,
    /// How long an answer is waited for.
    pub(crate) patience: Duration,
    /// How many a second; as fast as they are answered unless set.
    pub(crate) rate: Option<NonZeroU64>,
    /// How many different keys there are. They are asked about in turn.
    pub(crate) keys: NonZeroU64,
    pub(crate) key_prefix: String,
    /// What is configured unless set.
    pub(crate) limit: Option<Quota>,
}

impl Plan {
    /// Which server gets a request, and for which key. All servers are asked about a key before the
    /// next one's turn, so that none is only ever asked of one of them.
    pub(super) fn request(&self, number: u64) -> (usize, String) {
        let servers = self.servers.len() as u64;
        let (round, server) = (number / servers, number % servers);
        let key = format!("{}{}", self.key_prefix, round % self.keys);
        (server as usize, key)
    }
}

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

/// Lets requests go when they are due.
///
/// By a thread of its own: Tokio's timer is right to a millisecond, which is as long as an answer
/// takes, and would be measured with it.
///
/// One permit for each request that is due, none of which is given back. After the last there are as
/// many as there are `waiters`, so that each of them learns that there is no more. Close it to end
/// early.
pub(super) fn start_pace(
    schedule: Arc<Schedule>,
    began: Instant,
    waiters: usize,
) -> io::Result<Arc<Semaphore>> {
    let permits = Arc::new(Semaphore::new(0));
    let given = Arc::clone(&permits);
    thread::Builder::new()
        .name("pace".to_owned())
        .spawn(move || give(&schedule, began, &given, waiters))?;
    Ok(permits)
}

fn give(schedule: &Schedule, began: Instant, permits: &Semaphore, waiters: usize) {
    let mut given = 0;
    while !permits.is_closed() {
        if matches!(schedule.amount(), Amount::Requests(total) if given >= total) {
            permits.add_permits(waiters);
            return;
        }
        let Some(due) = schedule.due_by(began.elapsed()) else {
            return;
        };
        permits.add_permits(usize::try_from(due - given).unwrap_or(usize::MAX));
        given = due;
        if let Some(next) = schedule.due(given) {
            thread::sleep(next.saturating_sub(began.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_keys_have_their_turns() {
        let plan = Plan {
            servers: ["http://a:1", "grpc://b:2"]
                .map(|server| server.parse().expect("an address"))
                .to_vec(),
            token: None,
            amount: Amount::Requests(8),
            in_flight: 1,
            patience: Duration::ZERO,
            rate: None,
            keys: NonZeroU64::new(2).expect("not zero"),
            key_prefix: "key:".to_owned(),
            limit: None,
        };
        let asked = (0..6).map(|number| plan.request(number));
        let expected = [
            (0, "key:0"),
            (1, "key:0"),
            (0, "key:1"),
            (1, "key:1"),
            (0, "key:0"),
            (1, "key:0"),
        ];
        let expected = expected.map(|(server, key)| (server, key.to_owned()));
        assert_eq!(asked.collect::<Vec<_>>(), expected);
    }

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
