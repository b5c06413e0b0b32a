use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::store::{
    Check, LocalStore, Outcome, OwnedCheck, Receipt, Store, StoreErrorKind, Verdict,
};

/// A store that answers, fails, hangs or delays its answers on command, for tests of an application.
///
/// It counts in a [`LocalStore`]. Clones share the store, so that a test can keep a clone to change
/// its behavior. With Tokio's paused clock, delays take virtual time.
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

/// The behavior of a [`ProgrammableStore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behavior {
    /// Answers at once.
    #[default]
    Answer,
    /// Charges at once, and answers after this time.
    AnswerAfter(Duration),
    /// Answers at once with verdicts marked as [remembered](Verdict::remembered), which are no sign
    /// of the store's health.
    Remember,
    /// Fails at once, without charging.
    Fail(StoreErrorKind),
    /// Neither charges nor answers.
    Hang,
    /// Answers with the opposite of the decision that follows from its states.
    Lie,
}

impl ProgrammableStore {
    /// Creates a store that answers.
    pub fn new() -> Self {
        Self::with_store(LocalStore::new())
    }

    /// Creates a store that counts in `counts`, for example with a [`ManualClock`](super::ManualClock).
    pub fn with_store(counts: LocalStore) -> Self {
        Self::with_lanes(counts, |_| 0)
    }

    /// Creates a store with several lanes; `lane_of` returns the lane of a check.
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

    /// Sets the behavior of lane 0.
    pub fn behave(&self, behavior: Behavior) {
        self.behave_in(0, behavior);
    }

    /// Sets the behavior of a lane.
    pub fn behave_in(&self, lane: usize, behavior: Behavior) {
        self.0
            .behaviors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(lane, behavior);
    }

    /// Returns how many times the store was asked for a check or a reset, without probes.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// Returns how many times the store was probed.
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

impl Program {
    /// Gives a charge back if nobody keeps its receipt, as a store with a server does.
    fn released_unless_kept(self: Arc<Self>, verdict: Verdict, check: OwnedCheck) -> Verdict {
        let Some(receipt) = verdict.receipt.as_deref().cloned() else {
            return verdict;
        };
        let settled = receipt.clone();
        verdict.with_receipt(receipt.or_release(move || {
            let _ = self.counts.settle(&check.borrow(), &settled, 0);
        }))
    }
}

impl Store for ProgrammableStore {
    fn check(&self, check: &Check<'_>) -> Outcome {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.decide(self.lane(check), |counts| match counts.check(check) {
            Outcome::Ready(Ok(verdict)) if check.reserves() => {
                let program = self.0.clone();
                Outcome::Ready(Ok(program.released_unless_kept(verdict, check.into_owned())))
            }
            outcome => outcome,
        })
    }

    fn can_settle(&self) -> bool {
        true
    }

    fn settle(&self, check: &Check<'_>, receipt: &Receipt, used: u32) -> Outcome<()> {
        self.perform(self.lane(check), |counts| {
            counts.settle(check, receipt, used)
        })
    }

    fn renew(&self, check: &Check<'_>, receipt: &Receipt) -> Outcome<Receipt> {
        self.perform(self.lane(check), |counts| counts.renew(check, receipt))
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
