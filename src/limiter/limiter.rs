use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::any_store::{AnyStore, Waiting};
use super::breaker::LONGEST_WAIT;
use super::builder::LimiterBuilder;
use super::claims::Claim;
use super::failure::{FailureStrategy, Fallback, Held};
use super::lane::{Lane, Lanes};
use super::metrics::{Meter, Operation};
use super::pending::{Checked, PendingDecision, within};
use crate::deadlines::Deadlines;
use crate::decision::Decision;
use crate::quota::{Limits, Scope};
use crate::store::{Check, Outcome, Reply, Store, StoreError, StoreErrorKind, Verdict};

/// A store with a deadline, breakers, a fallback and metrics: everything that decides, and nothing
/// that knows of HTTP.
///
/// Cheap to clone and meant to be shared: ten layers on one limiter have one breaker and one
/// fallback. A store becomes one by [`From`], or with options by [`Limiter::builder`].
///
/// A check never fails. Where the store does not answer within the deadline, or the breaker is
/// open since it did not for a while, the [`FailureStrategy`] decides, and the [`Decision`] says
/// that it is degraded. [The guide](crate::guide::failures) tells the whole story.
///
/// ```
/// use std::time::Duration;
/// use tollgate::{FailureStrategy, Limiter, LocalStore, Quota, RateLimitLayer};
///
/// let limiter = Limiter::builder(LocalStore::new())
///     .deadline(Duration::from_millis(20))
///     .failure_strategy(FailureStrategy::Closed)
///     .build();
/// let api = RateLimitLayer::new(Quota::per_second(50), limiter.clone()).scope("api");
/// let login = RateLimitLayer::new(Quota::per_minute(5), limiter).scope("login");
/// ```
#[derive(Clone)]
pub struct Limiter {
    pub(super) shared: Arc<Shared>,
    fallback: Arc<Fallback>,
    strategy: FailureStrategy,
    shadow: bool,
}

pub(super) struct Shared {
    pub(super) store: AnyStore,
    pub(super) is_infallible: bool,
    pub(super) deadline: Duration,
    pub(super) lanes: Lanes,
    pub(super) meter: Meter,
    pub(super) deadlines: Deadlines,
}

/// A question that was put to the store.
pub(super) struct Asked {
    operation: Operation,
    /// The cost that the caller asked for; a peek asks the store for 0.
    cost: u32,
    lane: AskedLane,
    /// None where the store needs no fallback.
    held: Option<Held>,
    /// Whether the answer is waited for as long as any is.
    patient: bool,
}

impl Asked {
    pub(super) fn began(&self) -> Option<Instant> {
        self.lane.as_ref().map(|(_, began)| *began)
    }
}

/// The lane that a question went by, and when; none where the store vouches for itself.
type AskedLane = Option<(Arc<Lane>, Instant)>;

impl Limiter {
    /// A limiter with options.
    pub fn builder(store: impl Store) -> LimiterBuilder {
        LimiterBuilder::new(AnyStore::new(store))
    }

    pub(super) fn new(shared: Shared, fallback: Fallback, strategy: FailureStrategy) -> Self {
        Self {
            shared: Arc::new(shared),
            fallback: Arc::new(fallback),
            strategy,
            shadow: false,
        }
    }

    /// The same limiter, with the same counts and breakers, that answers failures otherwise.
    #[must_use]
    pub fn failure_strategy(self, strategy: FailureStrategy) -> Self {
        Self { strategy, ..self }
    }

    /// The same limiter, with the same store and breakers, and a fallback of its own that has room for
    /// this many counts (identities times policies, at 64 bytes each).
    ///
    /// A full fallback evicts counts, so a tenant that is asked about ever new identities can evict
    /// those of other tenants. It cannot if they have limiters with separate fallbacks. A store in the
    /// process has no fallback: there each tenant needs a [`LocalStore`](crate::LocalStore) of its own.
    ///
    /// ```
    /// # use tollgate::{Limiter, LocalStore};
    /// # let store = LocalStore::new();
    /// let limiter = Limiter::from(store);
    /// let acme = limiter.clone().separate_fallback(10_000);
    /// ```
    #[must_use]
    pub fn separate_fallback(self, capacity: usize) -> Self {
        let capacity = self.shared.fallback_capacity(capacity);
        let fallback = Arc::new(Fallback::new(capacity, self.fallback.share()));
        Self { fallback, ..self }
    }

    /// The same limiter for decisions that will not be enforced: metrics count its denials apart.
    #[must_use]
    pub fn shadow(self, shadow: bool) -> Self {
        Self { shadow, ..self }
    }

    /// Whether its decisions will not be enforced.
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Decides a check, charging all of its policies or none.
    ///
    /// The answer is there at once where the store is in the process; to wait for it in either
    /// case, `.await` it. Waiting needs a Tokio runtime with its timer enabled.
    pub fn check<'a>(&self, check: &Check<'a>) -> Checked<'a> {
        self.ask(check, Operation::Check)
    }

    /// Tells what a check would get, without charging it.
    ///
    /// The decision is allowed if the check's cost fits now, and its
    /// [`retry_after`](Decision::retry_after) says when it will. What remains is told uncharged, so a
    /// peek of cost 0 asks for that alone, and is always allowed.
    ///
    /// ```
    /// use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let limiter = Limiter::from(LocalStore::new());
    /// let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_hour(10)));
    /// let check = Check::new(&alice, &limits);
    /// limiter.check(&check.cost(7)).await;
    ///
    /// assert!(limiter.peek(&check.cost(3)).await.is_allowed());
    /// assert!(!limiter.peek(&check.cost(4)).await.is_allowed());
    /// assert_eq!(limiter.peek(&check).await.remaining(), 3);
    /// # }
    /// ```
    pub fn peek<'a>(&self, check: &Check<'a>) -> Checked<'a> {
        self.ask(check, Operation::Peek)
    }

    fn ask<'a>(&self, check: &Check<'a>, operation: Operation) -> Checked<'a> {
        let shared = &self.shared;
        if operation == Operation::Check
            && let Some(status) = shared.store.decide_one(check)
        {
            let decision = Decision::of_one(check, status);
            shared.meter.operation(operation, None);
            self.report(check, operation, &decision);
            return Checked::Ready(decision);
        }
        if shared.is_infallible {
            // Nothing to guard against, and nothing to carry: so the check is asked as it is.
            let asked = Asked {
                operation,
                cost: check.cost,
                lane: None,
                held: None,
                patient: true,
            };
            let reply = shared.store.ask(&operation.charged(check));
            return self.answered(check, asked, reply);
        }
        let Ok(lane) = shared.lane(check) else {
            let decision = self.degraded(check, operation, true);
            self.report(check, operation, &decision);
            return Checked::Ready(decision);
        };
        let held = lane.as_ref().map(|_| self.fallback.held(check));
        let carried = held.as_ref().and_then(|held| held.carried.as_deref());
        let patience = check.time_left.min(shared.deadline);
        let began = lane.as_ref().map(|(_, began)| *began);
        let charged = operation.charged(check);
        let reply = shared
            .store
            .ask(&charged.time_left(patience).asked(began).carrying(carried));
        let asked = Asked {
            operation,
            cost: check.cost,
            lane,
            held,
            patient: patience == shared.deadline,
        };
        self.answered(check, asked, reply)
    }

    #[inline]
    fn answered<'a>(&self, check: &Check<'a>, asked: Asked, reply: Reply<Waiting>) -> Checked<'a> {
        match reply {
            Reply::Known(result) => Checked::Ready(self.conclude(check, &asked, &result)),
            Reply::Pending(waiting) => {
                if let Some((lane, began)) = &asked.lane {
                    self.shared.sent(lane, *began);
                }
                let patience = check.time_left.min(self.shared.deadline);
                let pending = PendingDecision::new(self.clone(), asked, waiting, patience);
                Checked::Pending(pending)
            }
        }
    }

    /// Makes a decision of what the store said, or of its failure.
    #[inline]
    pub(super) fn conclude<'a>(
        &self,
        check: &Check<'a>,
        asked: &Asked,
        result: &Result<Verdict, StoreError>,
    ) -> Decision<'a> {
        let check = &check.cost(asked.cost);
        let verdict = match result {
            Ok(verdict) => verdict,
            Err(error) => return self.undecided(check, asked, error),
        };
        let charged = &asked.operation.charged(check);
        let replayed = match &asked.held {
            Some(held) if !verdict.remembered => self.fallback.settle(charged, held, verdict),
            _ => Decision::replay(charged, verdict),
        };
        let decision = match replayed {
            Ok(_) if asked.operation == Operation::Peek => Decision::preview(check, verdict),
            Ok(decision) => decision,
            Err(error) => return self.undecided(check, asked, &error),
        };
        if !verdict.remembered {
            self.shared.heard(asked.operation, &asked.lane, Ok(()));
        }
        self.report(check, asked.operation, &decision);
        decision
    }

    #[cold]
    fn undecided<'a>(&self, check: &Check<'a>, asked: &Asked, error: &StoreError) -> Decision<'a> {
        let slow = error.kind() == StoreErrorKind::TimedOut;
        // One who would not wait longer says nothing of the store.
        let impatient = slow && !asked.patient;
        let lane = if impatient { &None } else { &asked.lane };
        self.shared.heard(asked.operation, lane, Err(error));
        // A slow answer may be this check's alone.
        let open = |(lane, _): &(Arc<Lane>, _)| lane.is_open(Instant::now());
        let away = !slow || asked.lane.as_ref().is_some_and(open);
        let decision = self.degraded(check, asked.operation, away);
        self.report(check, asked.operation, &decision);
        decision
    }

    /// What the strategy makes of a store that does not decide this check, or is away for all.
    fn degraded<'a>(&self, check: &Check<'a>, operation: Operation, away: bool) -> Decision<'a> {
        match self.strategy {
            FailureStrategy::Open => self.fallback.check(check, operation, away),
            FailureStrategy::OpenUnlimited => Decision::unlimited(check),
            FailureStrategy::Closed => Decision::refused(check, LONGEST_WAIT),
        }
    }

    fn report(&self, check: &Check<'_>, operation: Operation, decision: &Decision<'_>) {
        if operation == Operation::Check {
            let meter = &self.shared.meter;
            meter.decided(check.identity, decision, self.shadow);
        }
    }

    /// Claims the counts of a layer, and gives its policies rows of their own in the metrics.
    pub(crate) fn claim(&self, scope: &Scope, limits: &Limits) -> Claim {
        self.shared.meter.configure(limits);
        Claim::new(self.shared.store.instance(), scope, limits)
    }

    /// Forgets what was counted for the check's identity, scope and policies, in the store and in
    /// the fallback.
    ///
    /// # Errors
    ///
    /// If the store did not answer that it did it. It may have.
    pub async fn reset(&self, check: &Check<'_>) -> Result<(), StoreError> {
        let shared = &self.shared;
        self.fallback.reset(check);
        let lane = shared.lane(check)?;
        let outcome = shared.store.reset(&check.time_left(shared.deadline));
        shared.done(Operation::Reset, lane, outcome).await
    }
}

/// The breaker is open: the store is not to be asked.
struct Away;

impl From<Away> for StoreError {
    fn from(Away: Away) -> Self {
        StoreErrorKind::Unavailable.into()
    }
}

impl Shared {
    /// The capacity of a fallback that is asked for this much. Where no check can fail, a fallback is
    /// never used, and takes no memory.
    pub(super) fn fallback_capacity(&self, wanted: usize) -> usize {
        match self.is_infallible {
            true => 0,
            false => wanted,
        }
    }

    /// The lane to ask by, from now; none where the store needs no breaker.
    fn lane(&self, check: &Check<'_>) -> Result<AskedLane, Away> {
        if self.is_infallible {
            return Ok(None);
        }
        let (lane, now) = (self.lanes.get(self.store.lane(check)), Instant::now());
        if lane.is_open(now) {
            Err(Away)
        } else {
            Ok(Some((lane, now)))
        }
    }

    /// Takes note of an answer, or of an error in its place.
    fn heard(
        self: &Arc<Self>,
        operation: Operation,
        lane: &AskedLane,
        answer: Result<(), &StoreError>,
    ) {
        self.meter
            .operation(operation, answer.err().map(StoreError::kind));
        match (lane, answer) {
            (None, _) => {}
            (Some((lane, _)), Ok(())) => lane.succeeded(),
            (Some((lane, began)), Err(error)) => self.failed(lane, *began, error),
        }
    }

    async fn done(
        self: &Arc<Self>,
        operation: Operation,
        lane: AskedLane,
        outcome: Outcome<()>,
    ) -> Result<(), StoreError> {
        let result = match outcome {
            Outcome::Ready(result) => result,
            Outcome::Pending(answer) => within(self.deadline, answer).await,
        };
        self.heard(operation, &lane, result.as_ref().copied());
        result
    }
}

/// With a deadline of 50 ms, [`FailureStrategy::Open`] and a fallback for 100,000 counts.
impl<S: Store> From<S> for Limiter {
    fn from(store: S) -> Self {
        Self::builder(store).build()
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("store", &self.shared.store.name())
            .field("deadline", &self.shared.deadline)
            .field("failure_strategy", &self.strategy)
            .field("shadow", &self.shadow)
            .finish_non_exhaustive()
    }
}
