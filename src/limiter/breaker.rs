//! A circuit breaker as a pure state machine: it is told what happened and when, reads no clock
//! and starts no task. The [`Limiter`](super::Limiter) drives one for each of a store's lanes.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait before a probe, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A store that fails again sooner than this after it came back is still the same trouble.
const STABLE: Duration = Duration::from_secs(10);

/// A probe that is so much overdue will not come: its runtime has ended or stands still.
const OVERDUE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Breaker {
    /// So many failures in a row open it.
    threshold: u32,
    state: State,
    /// The wait before the next probe, before jitter.
    wait: Duration,
    closed_at: Option<Instant>,
    /// How many times it has opened. Whoever probes for an earlier time is too late.
    openings: u64,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        counted_at: Option<Instant>,
        /// When the first check was sent since the last answer or counted failure.
        unanswered: Option<Instant>,
    },
    Open {
        /// When the answer to a probe will be known, if anybody probes.
        probed_by: Instant,
    },
}

const CLOSED: State = State::Closed {
    failures: 0,
    counted_at: None,
    unanswered: None,
};

impl Breaker {
    pub(super) fn new(threshold: u32) -> Self {
        Self {
            threshold,
            state: CLOSED,
            wait: FIRST_WAIT,
            closed_at: None,
            openings: 0,
        }
    }

    /// Whether it is open, and nobody is to ask. It closes if nobody probes either.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { probed_by } if now > probed_by + OVERDUE => {
                self.close(now);
                false
            }
            State::Open { .. } => true,
        }
    }

    /// Reports a check that was sent. Says, once, whether those before it have been unanswered for
    /// longer than the deadline: a check that nobody waits for until then is never heard of again.
    pub(super) fn is_unanswered(&mut self, now: Instant, deadline: Duration) -> bool {
        let State::Closed { unanswered, .. } = &mut self.state else {
            return false;
        };
        let since = *unanswered.get_or_insert(now);
        let overdue = now.duration_since(since) > deadline;
        if overdue {
            *unanswered = None;
        }
        overdue
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
            unanswered,
        } = &mut self.state
        else {
            return false;
        };
        if counted_at.is_some_and(|counted_at| began <= counted_at) {
            return false;
        }
        *failures += 1;
        *counted_at = Some(now);
        *unanswered = None;
        if *failures < self.threshold {
            return false;
        }
        self.state = State::Open { probed_by: now };
        self.openings += 1;
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
        if let State::Closed {
            failures,
            unanswered,
            ..
        } = &mut self.state
        {
            *failures = 0;
            *unanswered = None;
        }
    }

    /// How many times it has opened.
    pub(super) fn openings(&self) -> u64 {
        self.openings
    }

    /// Whether it has been open since that opening.
    pub(super) fn is_open_since(&self, opening: u64) -> bool {
        self.openings == opening && matches!(self.state, State::Open { .. })
    }

    /// How long to wait before the next probe, which may take `patience`: twice as long each time,
    /// and of that a random part of at least half, so that many replicas do not probe in step.
    /// `jitter` is from 0 to 1.
    pub(super) fn next_wait(&mut self, jitter: f64, now: Instant, patience: Duration) -> Duration {
        let wait = self.wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
        if let State::Open { probed_by } = &mut self.state {
            *probed_by = now + wait + patience;
        }
        wait
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
        assert!(!breaker.is_open(start + 5 * MS));
        assert!(breaker.failed(start + 4 * MS, start + 4 * MS));
        assert!(breaker.is_open(start + 5 * MS));
        assert!(
            !breaker.failed(start + 5 * MS, start + 5 * MS),
            "opens once"
        );
        breaker.succeeded();
        assert!(
            breaker.is_open(start + 5 * MS),
            "a late answer does not close it"
        );
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
        let start = Instant::now();
        let mut now = start;
        let mut breaker = Breaker::new(3);
        open(&mut breaker, now);
        let wait = |breaker: &mut Breaker, jitter| breaker.next_wait(jitter, start, MS);
        let waits = [(); 6].map(|()| wait(&mut breaker, 1.0).as_millis());
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(wait(&mut breaker, 0.0), LONGEST_WAIT / 2);

        breaker.close(now);
        now += STABLE / 2;
        open(&mut breaker, now);
        assert_eq!(wait(&mut breaker, 1.0), LONGEST_WAIT, "the same trouble");

        breaker.close(now);
        now += STABLE;
        open(&mut breaker, now);
        assert_eq!(wait(&mut breaker, 1.0), FIRST_WAIT);
    }

    #[test]
    fn checks_that_nobody_waits_for_are_missed() {
        let start = Instant::now();
        let deadline = 50 * MS;
        let mut breaker = Breaker::new(3);
        let missed = (0..200).filter(|i| breaker.is_unanswered(start + *i * MS, deadline));
        assert_eq!(missed.collect::<Vec<_>>(), [51, 51 + 52, 51 + 2 * 52]);

        let mut breaker = Breaker::new(3);
        for i in 0..1_000 {
            assert!(!breaker.is_unanswered(start + i * 40 * MS, deadline));
            breaker.succeeded();
        }
    }

    #[test]
    fn closes_if_nobody_probes() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3);
        open(&mut breaker, start);
        let wait = breaker.next_wait(1.0, start, 50 * MS);
        let overdue = start + wait + 50 * MS + OVERDUE;
        assert!(breaker.is_open(overdue));
        assert!(breaker.is_open_since(1));
        assert!(!breaker.is_open(overdue + MS));
        open(&mut breaker, overdue + MS);
        assert!(!breaker.is_open_since(1) && breaker.is_open_since(2));
    }
}
