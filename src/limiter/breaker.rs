//! A circuit breaker as a pure state machine: its methods take the time of each event, so it reads no
//! clock and starts no task.

use std::time::Duration;

use tokio::time::Instant;

/// The wait before the first probe, and the longest wait before a probe.
const FIRST_WAIT: Duration = Duration::from_millis(100);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A breaker that stayed closed for this time starts over with [`FIRST_WAIT`] when it opens again.
const STABLE: Duration = Duration::from_secs(10);

/// After this delay the result of a probe is no longer expected: the probe's runtime has shut down or is
/// blocked.
const PROBE_OVERDUE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Breaker {
    /// The number of consecutive failures that opens the breaker.
    failures_to_open: u32,
    state: State,
    /// The wait before the next probe, without jitter.
    wait: Duration,
    closed_at: Option<Instant>,
    /// The number of times that the breaker has opened. A probing task belongs to one opening.
    openings: u64,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        /// The time of the last failure that was counted.
        counted_at: Option<Instant>,
        /// When the first check was sent after the last answer or counted failure.
        unanswered_since: Option<Instant>,
    },
    Open {
        /// When the result of the next probe is known at the latest.
        probed_by: Instant,
    },
}

const CLOSED: State = State::Closed {
    failures: 0,
    counted_at: None,
    unanswered_since: None,
};

impl Breaker {
    pub(super) fn new(failures_to_open: u32) -> Self {
        Self {
            failures_to_open,
            state: CLOSED,
            wait: FIRST_WAIT,
            closed_at: None,
            openings: 0,
        }
    }

    /// Returns whether the breaker is open, so that no check may be sent. Closes the breaker if the result
    /// of a probe is overdue.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { probed_by } if now > probed_by + PROBE_OVERDUE => {
                self.close(now);
                false
            }
            State::Open { .. } => true,
        }
    }

    /// Records a check that was sent. Returns true, once, if no check has been answered for longer than
    /// the deadline. Callers that drop their futures before the deadline report no failures, so this is
    /// the only sign of an unresponsive store then.
    pub(super) fn is_unanswered(&mut self, now: Instant, deadline: Duration) -> bool {
        let State::Closed {
            unanswered_since, ..
        } = &mut self.state
        else {
            return false;
        };
        let since = *unanswered_since.get_or_insert(now);
        let is_overdue = now.duration_since(since) > deadline;
        if is_overdue {
            *unanswered_since = None;
        }
        is_overdue
    }

    /// Records a failed check that was started at `started`. Returns whether this opened the breaker.
    ///
    /// Many checks share a round trip, and checks that were in flight when a failure was counted most
    /// likely failed with it. So a failure counts only if its check started after the last failure that
    /// was counted: a hundred checks that time out together are one failure.
    pub(super) fn failed(&mut self, started: Instant, now: Instant) -> bool {
        let State::Closed {
            failures,
            counted_at,
            unanswered_since,
        } = &mut self.state
        else {
            return false;
        };
        if counted_at.is_some_and(|counted_at| started <= counted_at) {
            return false;
        }
        *failures += 1;
        *counted_at = Some(now);
        *unanswered_since = None;
        if *failures < self.failures_to_open {
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

    /// Records an answer. The late answer to a check that was sent before the breaker opened does not
    /// close the breaker.
    pub(super) fn succeeded(&mut self) {
        if let State::Closed {
            failures,
            unanswered_since,
            ..
        } = &mut self.state
        {
            *failures = 0;
            *unanswered_since = None;
        }
    }

    /// Returns the number of times that the breaker has opened.
    pub(super) fn openings(&self) -> u64 {
        self.openings
    }

    /// Returns whether the breaker has been open since that opening.
    pub(super) fn is_open_since(&self, opening: u64) -> bool {
        self.openings == opening && matches!(self.state, State::Open { .. })
    }

    /// Returns the wait before the next probe, which takes up to `patience`. The wait doubles each time
    /// up to [`LONGEST_WAIT`]; jitter (from 0 to 1) takes away up to half of it, so that the replicas do
    /// not probe in step.
    pub(super) fn next_wait(&mut self, jitter: f64, now: Instant, patience: Duration) -> Duration {
        let wait = self.wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
        if let State::Open { probed_by } = &mut self.state {
            *probed_by = now + wait + patience;
        }
        wait
    }

    /// Records a successful probe.
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
    fn opens_after_consecutive_failures() {
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
    fn probe_waits_double_and_restart_once_stable() {
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
        assert_eq!(
            wait(&mut breaker, 1.0),
            LONGEST_WAIT,
            "failed again before it was stable"
        );

        breaker.close(now);
        now += STABLE;
        open(&mut breaker, now);
        assert_eq!(wait(&mut breaker, 1.0), FIRST_WAIT);
    }

    #[test]
    fn checks_without_answers_are_reported_once_a_deadline() {
        let start = Instant::now();
        let deadline = 50 * MS;
        let mut breaker = Breaker::new(3);
        let reports = (0..200).filter(|i| breaker.is_unanswered(start + *i * MS, deadline));
        assert_eq!(reports.collect::<Vec<_>>(), [51, 51 + 52, 51 + 2 * 52]);

        let mut breaker = Breaker::new(3);
        for i in 0..1_000 {
            assert!(!breaker.is_unanswered(start + i * 40 * MS, deadline));
            breaker.succeeded();
        }
    }

    #[test]
    fn closes_if_probe_is_overdue() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3);
        open(&mut breaker, start);
        let wait = breaker.next_wait(1.0, start, 50 * MS);
        let overdue = start + wait + 50 * MS + PROBE_OVERDUE;
        assert!(breaker.is_open(overdue));
        assert!(breaker.is_open_since(1));
        assert!(!breaker.is_open(overdue + MS));
        open(&mut breaker, overdue + MS);
        assert!(!breaker.is_open_since(1) && breaker.is_open_since(2));
    }
}
