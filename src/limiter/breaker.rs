//! A circuit breaker as a pure state machine: it is told what happened and when, reads no clock
//! and starts no task. The [`Limiter`](super::Limiter) drives one for each of a store's lanes.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait before a probe, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A store that fails again sooner than this after it came back is still the same trouble.
const STABLE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Breaker {
    /// So many failures in a row open it.
    threshold: u32,
    state: State,
    /// The wait before the next probe, before jitter.
    wait: Duration,
    closed_at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        counted_at: Option<Instant>,
    },
    Open,
}

const CLOSED: State = State::Closed {
    failures: 0,
    counted_at: None,
};

impl Breaker {
    pub(super) fn new(threshold: u32) -> Self {
        Self {
            threshold,
            state: CLOSED,
            wait: FIRST_WAIT,
            closed_at: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Reports a round trip that failed or timed out. Says whether this opened the breaker.
    ///
    /// Many checks share a round trip, and those that were under way when a failure was counted
    /// most likely failed with it. So a failure counts only if it began after the last one
    /// counted: a hundred checks that time out together are one failure.
    pub(super) fn failed(&mut self, began: Instant, now: Instant) -> bool {
        let State::Closed {
            failures,
            counted_at,
        } = &mut self.state
        else {
            return false;
        };
        if counted_at.is_some_and(|counted_at| began <= counted_at) {
            return false;
        }
        *failures += 1;
        *counted_at = Some(now);
        if *failures < self.threshold {
            return false;
        }
        self.state = State::Open;
        if self
            .closed_at
            .is_none_or(|closed_at| now.duration_since(closed_at) >= STABLE)
        {
            self.wait = FIRST_WAIT;
        }
        true
    }

    /// Reports an answer. One to a check from before the breaker opened does not close it.
    pub(super) fn succeeded(&mut self) {
        if let State::Closed { failures, .. } = &mut self.state {
            *failures = 0;
        }
    }

    /// How long to wait before the next probe: twice as long each time, and of that a random part
    /// of at least half, so that many replicas do not probe in step. `jitter` is from 0 to 1.
    pub(super) fn next_wait(&mut self, jitter: f64) -> Duration {
        let wait = self.wait;
        self.wait = (2 * wait).min(LONGEST_WAIT);
        wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// Reports a probe that was answered.
    pub(super) fn close(&mut self, now: Instant) {
        self.state = CLOSED;
        self.closed_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn open(breaker: &mut Breaker, now: Instant) {
        assert!(
            (1..=3).any(|i| breaker.failed(now + i * MS, now + i * MS)),
            "three failures open it"
        );
    }

    #[test]
    fn opens_after_failures_in_a_row() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3);
        assert!(!breaker.failed(start, start));
        assert!(!breaker.failed(start + MS, start + MS));
        breaker.succeeded();
        assert!(!breaker.failed(start + 2 * MS, start + 2 * MS));
        assert!(!breaker.failed(start + 3 * MS, start + 3 * MS));
        assert!(!breaker.is_open());
        assert!(breaker.failed(start + 4 * MS, start + 4 * MS));
        assert!(breaker.is_open());
        assert!(
            !breaker.failed(start + 5 * MS, start + 5 * MS),
            "opens once"
        );
        breaker.succeeded();
        assert!(breaker.is_open(), "a late answer does not close it");
    }

    #[test]
    fn checks_that_fail_together_are_one_failure() {
        let start = Instant::now();
        let mut breaker = Breaker::new(2);
        for _ in 0..100 {
            assert!(!breaker.failed(start, start + 50 * MS));
        }
        assert!(breaker.failed(start + 51 * MS, start + 100 * MS));
    }

    #[test]
    fn waits_double_to_a_second_and_start_over_once_stable() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(3);
        open(&mut breaker, now);
        let waits: Vec<_> = (0..6).map(|_| breaker.next_wait(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(breaker.next_wait(0.0), LONGEST_WAIT / 2);

        breaker.close(now);
        now += STABLE / 2;
        open(&mut breaker, now);
        assert_eq!(breaker.next_wait(1.0), LONGEST_WAIT, "the same trouble");

        breaker.close(now);
        now += STABLE;
        open(&mut breaker, now);
        assert_eq!(breaker.next_wait(1.0), FIRST_WAIT);
    }
}
