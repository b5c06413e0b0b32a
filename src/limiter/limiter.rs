use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::decision::Decision;
use super::denied::Denied;
use super::engine::{Acquired, Checked, Engine};
use super::failure::FailureStrategy;
use super::fallback::Fallback;
use super::guarded_store::GuardedStore;
use super::metrics::Operation;
use super::permit::Permit;
use super::renewals::Renewals;
use super::shared_counts::LayerRegistration;
use crate::quota::{Limits, Policy, Scope};
use crate::store::{Check, Store, StoreError};

/// Decides checks by a store, with a deadline, a circuit breaker, a fallback and metrics. It is
/// independent of HTTP.
///
/// A limiter is cheap to clone and meant to be shared: ten layers on one limiter have one breaker and
/// one fallback. A store is converted into a limiter by [`From`], or with options by
/// [`Limiter::builder`].
///
/// A check never fails. If the store does not answer within the deadline, or if the circuit breaker is
/// open, the [`FailureStrategy`] decides, and [`Decision::is_degraded`](crate::Decision::is_degraded)
/// returns true. See [the guide](crate::guide::failures).
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
    engine: Engine,
}

impl Limiter {
    /// Creates a builder, for a limiter with options.
    pub fn builder(store: impl Store) -> LimiterBuilder {
        LimiterBuilder {
            store: Box::new(store),
            deadline: Duration::from_millis(50),
            failures_to_open: const { NonZeroU32::new(3).expect("3 is not 0") },
            strategy: FailureStrategy::default(),
            fallback_capacity: 100_000,
            fallback_replicas: NonZeroU32::MIN,
        }
    }

    /// Returns a limiter with the same store, breakers and fallback, and with this failure strategy.
    #[must_use]
    pub fn failure_strategy(mut self, strategy: FailureStrategy) -> Self {
        self.engine.strategy = strategy;
        self
    }

    /// Returns a limiter with the same store and breakers, and with a fallback of its own that has room for
    /// `capacity` entries (identities times policies) of 64 bytes each.
    ///
    /// A full fallback evicts entries, so a tenant whose requests have ever new identities can evict
    /// those of other tenants. Tenants with separate fallbacks cannot. A store in the process has no
    /// fallback: there each tenant needs a [`LocalStore`](crate::LocalStore) of its own.
    ///
    /// ```
    /// # use tollgate::{Limiter, LocalStore};
    /// # let store = LocalStore::new();
    /// let limiter = Limiter::from(store);
    /// let acme = limiter.clone().separate_fallback(10_000);
    /// ```
    #[must_use]
    pub fn separate_fallback(mut self, capacity: usize) -> Self {
        let capacity = self.engine.store.fallback_capacity(capacity);
        self.engine.fallback = Arc::new(self.engine.fallback.separate(capacity));
        self
    }

    /// Returns the same limiter in shadow mode, or not. In shadow mode its decisions are not enforced, and
    /// the metrics count its denials separately.
    #[must_use]
    pub fn shadow(mut self, shadow: bool) -> Self {
        self.engine.shadow = shadow;
        self
    }

    /// Returns whether the limiter is in shadow mode.
    pub fn is_shadow(&self) -> bool {
        self.engine.shadow
    }

    /// Decides a check, charging all of its policies or none.
    ///
    /// The charge is final: a token bucket that [reserves](crate::Quota::reserve_for) is charged at once, and
    /// of a [concurrency limit](crate::Quota::concurrent) the check only looks for a free slot.
    ///
    /// The check does not queue unless it has a [`max_wait`](Check::max_wait). If it has, an allowed
    /// decision may have a [`delay`](crate::Decision::delay), for which the caller must wait;
    /// [`acquire`](Limiter::acquire) does.
    ///
    /// With a store in the process the decision is ready at once; `.await` works in either case. A
    /// pending decision needs a Tokio runtime with its timer enabled.
    pub fn check<'a>(&self, check: &Check<'a>) -> Checked<'a> {
        self.engine.run(check, Operation::Check)
    }

    /// Charges a check, waits for its place in the [queue](crate::Quota::queue) if it has one, and returns
    /// the [`Permit`] to go on.
    ///
    /// The check waits for at most its [`max_wait`](Check::max_wait), or as long as the queue is. It is sent
    /// to the store when this method is called, in one round trip at most, and checks go on in the order
    /// of their charges. If the future is dropped while it waits, the place stays charged, since the
    /// checks behind it would otherwise go on too early.
    ///
    /// The [deadline](LimiterBuilder::deadline) does not include the wait. A limiter in
    /// [shadow mode](Limiter::shadow) never waits, and returns a permit even for a denial. The number of
    /// waiting futures is not bounded; the quota's queue bounds those of each identity.
    ///
    /// A pending decision and a wait need a Tokio runtime with its timer enabled, whose resolution is a
    /// millisecond.
    ///
    /// ```
    /// use tollgate::{Check, Denied, Identity, Kind, Limiter, Limits, LocalStore, Quota};
    ///
    /// const API: Kind = Kind::new("api");
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Denied> {
    /// let limiter = Limiter::from(LocalStore::new());
    /// // 100 calls a second, 10 ms apart.
    /// let limits = Limits::from(Quota::per_second(100).burst(1).queue(1_000));
    /// let mail = Identity::new(&API, "mail");
    /// for _ in 0..5 {
    ///     let _permit = limiter.acquire(&Check::new(&mail, &limits)).await?;
    ///     // Call the API here.
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the check is denied, or if the queue is too long for its `max_wait`. A denied check is not charged.
    pub fn acquire(
        &self,
        check: &Check<'_>,
    ) -> impl Future<Output = Result<Permit, Denied>> + Send + use<> {
        let max_wait = check.max_wait.unwrap_or(Duration::MAX);
        let acquired = self.engine.acquire(&check.max_wait(max_wait));
        // The delay begins with the decision, not with the first poll.
        let decided_at = match &acquired {
            Acquired::Ready(permit) if permit.decision().is_delayed() => Some(Instant::now()),
            _ => None,
        };
        let limiter = self.clone();
        async move {
            let permit = match acquired {
                Acquired::Ready(permit) => permit,
                Acquired::Pending(permit) => permit.await,
            };
            let decision = permit.decision();
            if limiter.is_shadow() {
                return Ok(permit);
            }
            if !decision.is_allowed() {
                return Err(Denied::new(decision.clone()));
            }
            if decision.is_delayed() {
                limiter.record_delay(decision);
                let decided_at = decided_at.unwrap_or_else(Instant::now);
                sleep_until(decided_at + decision.delay()).await;
            }
            Ok(permit)
        }
    }

    pub(crate) fn can_settle(&self) -> bool {
        self.engine.store.store.can_settle()
    }

    /// Returns the store's name in metrics.
    pub(crate) fn store_name(&self) -> &'static str {
        self.engine.store.store.name()
    }

    /// Charges a check. The caller waits for the delay of the decision.
    pub(crate) fn charge(&self, check: &Check<'_>) -> Acquired {
        self.engine.acquire(check)
    }

    /// Waits until the store has answered all settlements of permits that were dropped so far, for instance
    /// before the process ends. A charge that is not settled by then stays as it was charged, or its reservation
    /// lapses. A charge whose reservation is being renewed is settled after the renewal, and not waited for.
    pub async fn flush(&self) {
        self.engine.store.flush().await;
    }

    /// Returns the decision that a check would get, without charging it.
    ///
    /// The decision is allowed if the check's cost fits now. Otherwise its
    /// [`retry_after`](crate::Decision::retry_after) is the time until it fits.
    /// [`remaining`](crate::Decision::remaining) does not include the cost. A peek of cost 0 is always
    /// allowed.
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
        self.engine.run(check, Operation::Peek)
    }

    /// Deletes the state of the check's identity under each of the check's policies, in its scope, from
    /// the store and the fallback.
    ///
    /// Policies that count by an [outer level](crate::Policy::per) are left out: to reset an
    /// organisation, reset its own identity.
    ///
    /// # Errors
    ///
    /// If the store did not confirm the deletion. It may have deleted the state nevertheless.
    pub async fn reset(&self, check: &Check<'_>) -> Result<(), StoreError> {
        let kind = check.identity.kind();
        let is_own = |policy: &Policy| policy.level().is_none_or(|level| level.as_str() == kind);
        let Some(limits) = check.limits.filter(is_own) else {
            return Ok(());
        };
        let check = check.limits(&limits);
        self.engine.fallback.reset(&check);
        self.engine.store.reset(&check).await
    }

    /// Records the delay of a decision in the metrics.
    pub(crate) fn record_delay(&self, decision: &Decision<'_>) {
        self.engine.store.meter.delayed(decision.delay());
    }

    /// Registers a layer: its policies get metrics of their own, and a layer that counts in the same
    /// entries is warned of.
    pub(crate) fn register_layer(&self, scope: &Scope, limits: &Limits) -> LayerRegistration {
        let guarded = &self.engine.store;
        guarded.meter.configure(limits);
        LayerRegistration::new(guarded.store.instance(), scope, limits)
    }
}

/// Uses the defaults of [`LimiterBuilder`].
impl<S: Store> From<S> for Limiter {
    fn from(store: S) -> Self {
        Self::builder(store).build()
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("store", &self.engine.store.store.name())
            .field("deadline", &self.engine.store.deadline)
            .field("failure_strategy", &self.engine.strategy)
            .field("shadow", &self.engine.shadow)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Limiter`] with options.
#[must_use = "call `build` to get the limiter"]
pub struct LimiterBuilder {
    store: Box<dyn Store>,
    deadline: Duration,
    failures_to_open: NonZeroU32,
    strategy: FailureStrategy,
    fallback_capacity: usize,
    fallback_replicas: NonZeroU32,
}

impl LimiterBuilder {
    /// Sets the longest time that a check may take: 50 ms unless set. A check that takes longer counts as
    /// a failure of the store.
    ///
    /// # Panics
    ///
    /// If the deadline is zero.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        assert!(
            !deadline.is_zero(),
            "a deadline of zero leaves a store no time to answer; use 1 ms or more"
        );
        self.deadline = deadline;
        self
    }

    /// Sets the number of consecutive failed round trips that opens a circuit breaker: 3 unless set.
    pub fn failures_to_open(mut self, failures: NonZeroU32) -> Self {
        self.failures_to_open = failures;
        self
    }

    /// Sets how requests are decided while the store cannot: [`FailureStrategy::Open`] unless set. A layer
    /// can override it.
    pub fn failure_strategy(mut self, strategy: FailureStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sets the number of entries (identities times policies) that the fallback of
    /// [`FailureStrategy::Open`] has room for: 100,000 unless set, at 64 bytes each. A store in the
    /// process has no fallback.
    pub fn fallback_capacity(mut self, capacity: usize) -> Self {
        self.fallback_capacity = capacity;
        self
    }

    /// Sets the number of replicas of the application that share the limits: 1 unless set.
    ///
    /// While the store is unavailable, each replica counts alone, so that `n` replicas together would
    /// allow `n` times the limit. With this option the fallback charges each admission `n` times, as if
    /// every replica had admitted it. A check that only timed out, while the breaker is closed, is
    /// charged once. An identity with a full quota is always admitted once, so at least one request
    /// passes in each replica.
    pub fn fallback_replicas(mut self, replicas: NonZeroU32) -> Self {
        self.fallback_replicas = replicas;
        self
    }

    /// Builds the limiter.
    #[must_use]
    pub fn build(self) -> Limiter {
        let store = GuardedStore::new(self.store, self.deadline, self.failures_to_open);
        let capacity = store.fallback_capacity(self.fallback_capacity);
        Limiter {
            engine: Engine {
                store: Arc::new(store),
                fallback: Arc::new(Fallback::new(capacity, self.fallback_replicas.get())),
                renewals: Renewals::default(),
                strategy: self.strategy,
                shadow: false,
            },
        }
    }
}

impl fmt::Debug for LimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterBuilder")
            .field("store", &self.store.name())
            .field("deadline", &self.deadline)
            .field("failures_to_open", &self.failures_to_open)
            .field("failure_strategy", &self.strategy)
            .field("fallback_capacity", &self.fallback_capacity)
            .field("fallback_replicas", &self.fallback_replicas)
            .finish()
    }
}
