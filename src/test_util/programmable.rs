use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::store::{Check, LocalStore, Outcome, Store, StoreErrorKind, Verdict};

/// A store that does as it is told, to see what becomes of a request when a store does it.
///
/// It counts like the [`LocalStore`] within. Clones are the same store, so that one can be kept to
/// command it. With tokio's paused time, everything happens in virtual time.
///
/// ```
/// use tollgate::test_util::{Behavior, ProgrammableStore};
/// use tollgate::{Check, Identity, Limiter, Limits, Quota, StoreErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let store = ProgrammableStore::new();
/// let limiter = Limiter::from(store.clone());
/// store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
///
/// let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_second(1)));
/// assert!(limiter.check(&Check::new(&alice, &limits)).await.is_degraded());
/// # }
/// ```
#[derive(Clone)]
pub struct ProgrammableStore(Arc<Program>);

struct Program {
    counts: LocalStore,
    lane_of: Box<dyn Fn(&Check<'_>) -> usize + Send + Sync>,
    behaviors: Mutex<HashMap<usize, Behavior>>,
    calls: AtomicUsize,
    probes: AtomicUsize,
}

/// What a [`ProgrammableStore`] does when asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behavior {
    /// Answers at once.
    #[default]
    Answer,
    /// Charges at once, and answers so much later.
    AnswerAfter(Duration),
    /// Answers at once from memory, telling nothing of its health.
    Remember,
    /// Fails at once, without charging.
    Fail(StoreErrorKind),
    /// Never answers, nor charges.
    Hang,
    /// Says the contrary of what follows from its states.
    Lie,
}

impl ProgrammableStore {
    /// A store that answers.
    pub fn new() -> Self {
        Self::counting_in(LocalStore::new())
    }

    /// A store that counts in `counts`, which may have a clock of its own.
    pub fn counting_in(counts: LocalStore) -> Self {
        Self::with_lanes(counts, |_| 0)
    }

    /// A store of several lanes, told apart by `lane_of`.
    pub fn with_lanes(
        counts: LocalStore,
        lane_of: impl Fn(&Check<'_>) -> usize + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Program {
            counts,
            lane_of: Box::new(lane_of),
            behaviors: Mutex::default(),
            calls: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
        }))
    }

    /// What to do from now on, in lane 0.
    pub fn behave(&self, behavior: Behavior) {
        self.behave_in(0, behavior);
    }

    /// What to do from now on, in one lane.
    pub fn behave_in(&self, lane: usize, behavior: Behavior) {
        self.0
            .behaviors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(lane, behavior);
    }

    /// The number of checks and resets that the store was asked for so far, without probes.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// How many times it was probed so far.
    pub fn probes(&self) -> usize {
        self.0.probes.load(Ordering::SeqCst)
    }

    fn behavior(&self, lane: usize) -> Behavior {
        let behaviors = self
            .0
            .behaviors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        behaviors.get(&lane).copied().unwrap_or_default()
    }

    fn perform<T: Send + 'static>(
        &self,
        lane: usize,
        answer: impl FnOnce(&LocalStore) -> Outcome<T>,
    ) -> Outcome<T> {
        match self.behavior(lane) {
            Behavior::Answer | Behavior::Remember | Behavior::Lie => answer(&self.0.counts),
            Behavior::Fail(kind) => Outcome::Ready(Err(kind.into())),
            Behavior::Hang => Outcome::Pending(Box::pin(std::future::pending())),
            Behavior::AnswerAfter(time) => {
                let answer = answer(&self.0.counts);
                Outcome::Pending(Box::pin(async move {
                    tokio::time::sleep(time).await;
                    answer.wait().await
                }))
            }
        }
    }

    fn decide(&self, lane: usize, check: impl FnOnce(&LocalStore) -> Outcome) -> Outcome {
        match (self.behavior(lane), self.perform(lane, check)) {
            (Behavior::Remember, Outcome::Ready(Ok(verdict))) => {
                Outcome::Ready(Ok(verdict.remembered()))
            }
            (Behavior::Lie, Outcome::Ready(Ok(verdict))) => {
                let allowed = !verdict.allowed;
                Outcome::Ready(Ok(Verdict { allowed, ..verdict }))
            }
            (_, outcome) => outcome,
        }
    }
}

impl Store for ProgrammableStore {
    fn check(&self, check: &Check<'_>) -> Outcome {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.decide(self.lane(check), |counts| counts.check(check))
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.perform(self.lane(check), |counts| counts.reset(check))
    }

    fn instance(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn lane(&self, check: &Check<'_>) -> usize {
        (self.0.lane_of)(check)
    }

    fn probe(&self, lane: usize, time_left: Duration) -> Outcome {
        self.0.probes.fetch_add(1, Ordering::SeqCst);
        self.decide(lane, |counts| counts.probe(0, time_left))
    }

    fn name(&self) -> &'static str {
        "programmable"
    }
}

impl Default for ProgrammableStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ProgrammableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgrammableStore")
            .field("behaviors", &self.0.behaviors)
            .finish_non_exhaustive()
    }
}
