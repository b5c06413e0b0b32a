//! The plan of a load: its requests, and the time at which each is due.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tollgate::Quota;

use super::client::Address;

/// The length of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    Requests(u64),
    For(Duration),
}

/// The options of a load.
#[derive(Debug)]
pub(crate) struct Plan {
    /// At least one. Requests go to the servers in turn.
    pub(crate) servers: Vec<Address>,
    pub(crate) token: Option<String>,
    pub(crate) amount: Amount,
    /// The maximum number of concurrent requests.
    pub(crate) in_flight: u32,
    /// The timeout of a request.
    pub(crate) timeout: Duration,
    /// Requests per second. `None` sends a request as soon as another one has a response.
    pub(crate) rate: Option<NonZeroU64>,
    /// The number of different keys, which are used in turn.
    pub(crate) keys: NonZeroU64,
    pub(crate) key_prefix: String,
    /// The limit to send. `None` uses the configured limits.
    pub(crate) limit: Option<Quota>,
}

impl Plan {
    /// Returns the index of the server and the key of a request. Each key goes to all servers
    /// before the next key, so that every server gets every key.
    pub(super) fn request(&self, number: u64) -> (usize, String) {
        let servers = self.servers.len() as u64;
        let (round, server) = (number / servers, number % servers);
        let key = format!("{}{}", self.key_prefix, round % self.keys);
        (server as usize, key)
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The requests of a load, and the time since its start at which each is due.
#[derive(Debug)]
pub(super) struct Schedule {
    rate: Option<NonZeroU64>,
    amount: Amount,
}

impl Schedule {
    pub(super) fn new(amount: Amount, rate: Option<NonZeroU64>) -> Self {
        // With a rate, the number of requests is known. All of them are sent, even if a server
        // falls behind and the time is over: else its slowest responses would be missing from the
        // measurement.
        let amount = match (amount, rate) {
            (Amount::For(time), Some(rate)) => Amount::Requests(due_before(rate, time.as_nanos())),
            _ => amount,
        };
        Self { rate, amount }
    }

    pub(super) fn amount(&self) -> Amount {
        self.amount
    }

    /// Returns whether the load still includes the request `number`, counted from 0.
    pub(super) fn includes(&self, number: u64, now: Duration) -> bool {
        match self.amount {
            Amount::Requests(total) => number < total,
            Amount::For(time) => now < time,
        }
    }

    /// Returns when a request is due, if there is a rate.
    pub(super) fn due_at(&self, number: u64) -> Option<Duration> {
        let nanoseconds = u128::from(number) * NANOS_PER_SECOND / u128::from(self.rate?.get());
        Some(Duration::from_nanos(to_u64_saturating(nanoseconds)))
    }

    /// Returns the number of requests that are due by now, if there is a rate.
    pub(super) fn number_due(&self, now: Duration) -> Option<u64> {
        let due = due_before(self.rate?, now.as_nanos() + 1);
        Some(match self.amount {
            Amount::Requests(total) => due.min(total),
            Amount::For(_) => due,
        })
    }
}

/// Returns the number of requests that are due in the first `nanoseconds` of a load.
fn due_before(rate: NonZeroU64, nanoseconds: u128) -> u64 {
    to_u64_saturating((nanoseconds * u128::from(rate.get())).div_ceil(NANOS_PER_SECOND))
}

fn to_u64_saturating(number: u128) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

/// Starts a thread that adds a permit to the returned semaphore for each request when it is due.
/// Close the semaphore to end the thread early.
///
/// Permits are not returned. After the last request, `waiters` more permits tell each waiter that
/// there are no more requests. A thread is used because Tokio's timer has a resolution of a
/// millisecond, which is about the latency of a response.
pub(super) fn start_pacer(
    schedule: Arc<Schedule>,
    start: Instant,
    waiters: usize,
) -> io::Result<Arc<Semaphore>> {
    let permits = Arc::new(Semaphore::new(0));
    let shared = Arc::clone(&permits);
    thread::Builder::new()
        .name("pacer".to_owned())
        .spawn(move || add_due_permits(&schedule, start, &shared, waiters))?;
    Ok(permits)
}

fn add_due_permits(schedule: &Schedule, start: Instant, permits: &Semaphore, waiters: usize) {
    let mut added = 0;
    while !permits.is_closed() {
        if matches!(schedule.amount(), Amount::Requests(total) if added >= total) {
            permits.add_permits(waiters);
            return;
        }
        let Some(due) = schedule.number_due(start.elapsed()) else {
            return;
        };
        permits.add_permits(usize::try_from(due - added).unwrap_or(usize::MAX));
        added = due;
        if let Some(next) = schedule.due_at(added) {
            thread::sleep(next.saturating_sub(start.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_gets_every_key() {
        let plan = Plan {
            servers: ["http://a:1", "grpc://b:2"]
                .map(|server| server.parse().expect("an address"))
                .to_vec(),
            token: None,
            amount: Amount::Requests(8),
            in_flight: 1,
            timeout: Duration::ZERO,
            rate: None,
            keys: NonZeroU64::new(2).expect("not zero"),
            key_prefix: "key:".to_owned(),
            limit: None,
        };
        let requests = (0..6).map(|number| plan.request(number));
        let expected = [
            (0, "key:0"),
            (1, "key:0"),
            (0, "key:1"),
            (1, "key:1"),
            (0, "key:0"),
            (1, "key:0"),
        ];
        let expected = expected.map(|(server, key)| (server, key.to_owned()));
        assert_eq!(requests.collect::<Vec<_>>(), expected);
    }

    fn schedule_of(rate: u64, amount: Amount) -> Schedule {
        Schedule::new(amount, NonZeroU64::new(rate))
    }

    #[test]
    fn requests_are_due_evenly() {
        let schedule = schedule_of(3, Amount::Requests(7));
        let due_at = (0..7).map(|number| schedule.due_at(number).expect("a rate").as_nanos());
        let expected = [
            0,
            333_333_333,
            666_666_666,
            1_000_000_000,
            1_333_333_333,
            1_666_666_666,
            2_000_000_000,
        ];
        assert_eq!(due_at.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn number_due_is_exact_to_the_nanosecond() {
        for rate in [1, 3, 7, 1_000, 3_000, 999_999_999, 10_000_000_000] {
            let schedule = schedule_of(rate, Amount::Requests(u64::MAX));
            for number in [0, 1, 2, 6, 1_000, 1_000_003] {
                let due_at = schedule.due_at(number).expect("a rate");
                let number_due = |time| schedule.number_due(time).expect("a rate");
                assert!(number_due(due_at) > number, "{rate} {number}");
                if let Some(before) = due_at.checked_sub(Duration::from_nanos(1)) {
                    assert!(number_due(before) <= number, "{rate} {number}");
                }
            }
        }
    }

    #[test]
    fn schedule_ends_by_number_or_time() {
        let second = Duration::from_secs(1);
        let requests = schedule_of(0, Amount::Requests(2));
        assert!(requests.includes(1, 1_000 * second));
        assert!(!requests.includes(2, Duration::ZERO));
        assert_eq!(requests.due_at(1), None);
        let time = schedule_of(0, Amount::For(second));
        assert!(time.includes(1_000_000, second / 2));
        assert!(!time.includes(0, second));
        // With a rate, the requests that were due in time are sent even when they are late.
        let both = schedule_of(3_000, Amount::For(2 * second));
        assert!(both.includes(5_999, 1_000 * second));
        assert!(!both.includes(6_000, Duration::ZERO));
        assert_eq!(both.number_due(1_000 * second), Some(6_000));
    }
}
