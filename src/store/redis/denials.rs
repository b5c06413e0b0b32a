//! The denial memory: what was denied is denied again here, without a round trip, for as long as
//! it would be there, a second at most. So a flood from a denied client costs the server about one
//! call a second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::subject::Subject;
use crate::quota::{State, Status};
use crate::store::verdict::PerPolicy;
use crate::store::{Check, Verdict};

/// After this time the server is asked again: another process may have reset the counts, or an
/// operator may have flushed the database.
const LONGEST: Duration = Duration::from_secs(1);

/// How many buckets of how many denials each. One identity's are all in one bucket.
const BUCKETS: usize = 4_096;
const PER_BUCKET: usize = 4;

pub(super) struct Denials(Box<[Mutex<Bucket>]>);

#[derive(Default)]
struct Bucket {
    denials: [Option<Box<Denial>>; PER_BUCKET],
    /// When a count was last reset. Round trips overlap, so a check that was sent before the reset
    /// may have been denied before it, and its answer may come later.
    forgot: Option<Instant>,
}

struct Denial {
    subject: Subject,
    cost: u32,
    /// Before the question was sent, so that the server's clock was not earlier than `now`.
    asked: Instant,
    until: Instant,
    now: u64,
    states: PerPolicy<State>,
}

impl Denials {
    pub(super) fn new() -> Self {
        Self((0..BUCKETS).map(|_| Mutex::default()).collect())
    }

    fn bucket(&self, identity: u64) -> MutexGuard<'_, Bucket> {
        let bucket = &self.0[identity as usize % BUCKETS];
        bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verdict on a check that is sure to be denied.
    ///
    /// A check that carries what was counted elsewhere is for the server to know.
    pub(super) fn recall(&self, subject: &Subject, check: &Check<'_>) -> Option<Verdict> {
        if check.cost == 0 || check.fallback_states().is_some() {
            return None;
        }
        let bucket = self.bucket(subject.identity);
        let mut denials = bucket.denials.iter().flatten();
        let mut now = None;
        let denial = denials.find(|denial| {
            denial.subject == *subject
                && denial.cost <= check.cost
                && *now.get_or_insert_with(Instant::now) < denial.until
        })?;
        let passed = now?.duration_since(denial.asked).as_micros() as u64;
        let states = denial.states.iter().copied();
        Some(Verdict::new(false, denial.now + passed, states).remembered())
    }

    /// Remembers that the server denied a check that it was asked at `asked`.
    pub(super) fn remember(
        &self,
        subject: &Subject,
        check: &Check<'_>,
        verdict: &Verdict,
        asked: Instant,
    ) {
        let Ok(statuses) = check.replay(verdict) else {
            return;
        };
        // A cost above the capacity never fits, and has no `retry_after`.
        let wait = |status: &Status| status.retry_after().unwrap_or(LONGEST);
        let wait = statuses
            .iter()
            .map(wait)
            .max()
            .unwrap_or_default()
            .min(LONGEST);
        let denial = Denial {
            subject: *subject,
            cost: check.cost,
            asked,
            until: asked + wait,
            now: verdict.now,
            states: verdict.states.clone(),
        };
        let mut bucket = self.bucket(subject.identity);
        if bucket.forgot.is_some_and(|forgot| asked <= forgot) {
            return;
        }
        let denials = &mut bucket.denials;
        let same = |kept: &Denial| kept.subject == *subject && kept.cost == check.cost;
        let place = denials
            .iter()
            .position(|kept| kept.as_deref().is_some_and(same))
            // Otherwise that which ends first; an empty place has ended.
            .or_else(|| {
                (0..PER_BUCKET).min_by_key(|place| denials[*place].as_ref().map(|kept| kept.until))
            });
        if let Some(place) = place {
            denials[place] = Some(Box::new(denial));
        }
    }

    /// Forgets the denials of an identity whose counts were reset.
    pub(super) fn forget(&self, subject: &Subject) {
        let mut bucket = self.bucket(subject.identity);
        bucket.forgot = Some(Instant::now());
        for place in &mut bucket.denials {
            if place
                .as_deref()
                .is_some_and(|kept| kept.subject.identity == subject.identity)
            {
                *place = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::quota::{Limits, Quota};

    #[test]
    fn denial_from_before_a_reset_is_not_remembered() {
        let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
        let check = Check::new(&alice, &limits);
        let subject = Subject::new(&check);
        let denials = Denials::new();
        let charged = check.decide(0, []).next;
        let denial = check.decide(0, charged).verdict;
        assert!(!denial.is_allowed());

        // Two round trips overlap. The server denies the check that the first brings, and forgets
        // the counts as the second asks; but the second's answer is handed out first.
        let asked = Instant::now();
        denials.forget(&subject);
        denials.remember(&subject, &check, &denial, asked);
        assert_eq!(denials.recall(&subject, &check), None);

        std::thread::sleep(Duration::from_millis(1));
        denials.remember(&subject, &check, &denial, Instant::now());
        assert!(denials.recall(&subject, &check).is_some());
    }
}
