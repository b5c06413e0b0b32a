use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{StoreError, StoreErrorKind};
use super::verdict::{PerPolicy, Step, Verdict};
use crate::identity::Identity;
use crate::quota::{Kind, Limits, Policy, Quota, Scope, State, Status};

static DEFAULT_SCOPE: LazyLock<Scope> = LazyLock::new(Scope::default);

/// A request to a [`Limiter`](crate::Limiter) or a store: may this identity spend this cost now, under
/// these limits?
///
/// ```
/// use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let limiter = Limiter::from(LocalStore::new());
/// let limits = Limits::from(Quota::per_minute(100));
/// let alice = Identity::user("alice");
///
/// let decision = limiter.check(&Check::new(&alice, &limits).cost(5)).await;
/// assert!(decision.is_allowed());
/// assert_eq!(decision.remaining(), 95);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Check<'a> {
    /// The identity to charge.
    pub identity: &'a Identity,
    /// The policies to charge, all at once.
    pub limits: &'a Limits,
    /// The scope of the identity's entries: the same identity and limits in another scope are counted
    /// separately.
    pub scope: &'a Scope,
    /// The cost to charge. A cost of 0 charges nothing and reads the state.
    pub cost: u32,
    /// The time for which the caller waits, from the creation of the check on. A store should not start
    /// work that cannot finish in that time.
    pub time_left: Duration,
    /// The longest delay in a [queue](Quota::queue) that the caller accepts, if it was set. A store takes
    /// `None` as zero.
    pub max_wait: Option<Duration>,
    /// When the caller began to wait, if it has read the clock already.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only RedisStore computes a deadline")
    )]
    started: Option<Instant>,
    fallback: Option<&'a FallbackStates>,
    reserves: bool,
    /// The number of replicas that each admission is charged for.
    replicas: u32,
}

impl<'a> Check<'a> {
    /// Creates a check of cost 1 in the default scope.
    pub fn new(identity: &'a Identity, limits: &'a Limits) -> Self {
        Self {
            identity,
            limits,
            scope: &DEFAULT_SCOPE,
            cost: 1,
            time_left: Duration::MAX,
            max_wait: None,
            started: None,
            fallback: None,
            reserves: false,
            replicas: 1,
        }
    }

    /// Sets the cost: 1 unless set.
    #[must_use]
    pub fn cost(self, cost: u32) -> Self {
        Self { cost, ..self }
    }

    /// Sets the policies.
    pub(crate) fn limits<'b>(self, limits: &'b Limits) -> Check<'b>
    where
        'a: 'b,
    {
        Check { limits, ..self }
    }

    /// Sets the scope: `default` unless set.
    #[must_use]
    pub fn scope(self, scope: &'a Scope) -> Self {
        Self { scope, ..self }
    }

    /// Sets the longest wait for a place in a [queue](Quota::queue), in whole microseconds. A check that
    /// would wait longer is denied and charged nothing.
    ///
    /// Unless set, the wait is zero for [`Limiter::check`](crate::Limiter::check), so that it does not
    /// queue. After a check with a `max_wait`, the caller must wait for the decision's
    /// [`delay`](crate::Decision::delay).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let limiter = Limiter::from(LocalStore::new());
    /// let (api, limits) = (Identity::user("api"), Limits::from(Quota::per_hour(1).queue(1)));
    /// let check = Check::new(&api, &limits);
    /// assert!(limiter.check(&check).await.is_allowed());
    ///
    /// // The next token is refilled in an hour.
    /// let denied = limiter.check(&check.max_wait(Duration::from_secs(60))).await;
    /// assert!(!denied.is_allowed());
    /// let queued = limiter.check(&check.max_wait(Duration::from_secs(3_600))).await;
    /// assert!(queued.is_allowed() && !queued.delay().is_zero());
    /// # }
    /// ```
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        let max_wait = Some(wait);
        Self { max_wait, ..self }
    }

    /// Returns the longest wait that the check may be admitted with: zero without a queue, so that
    /// checks that are decided alike compare as equal.
    #[cfg(feature = "redis")]
    pub(crate) fn queue_wait(&self) -> Duration {
        match self.max_wait {
            Some(wait) if self.limits.has_queue() => wait,
            _ => Duration::ZERO,
        }
    }

    /// Returns the identity that a policy counts: the check's identity, or its
    /// [level](Identity::level) of the [policy's kind](Policy::per).
    ///
    /// Returns the check's identity also if it has no such level. The [`Limiter`](crate::Limiter) gives a
    /// store only policies that apply to the identity.
    #[inline]
    pub fn identity_of(&self, policy: &Policy) -> &'a Identity {
        self.level_of(policy).unwrap_or(self.identity)
    }

    fn level_of(&self, policy: &Policy) -> Option<&'a Identity> {
        match policy.level() {
            None => Some(self.identity),
            Some(kind) => self.identity.level(kind),
        }
    }

    /// Returns whether at least one policy applies to the identity.
    pub(crate) fn has_applicable_policy(&self) -> bool {
        let mut policies = self.limits.policies().iter();
        policies.any(|policy| self.level_of(policy).is_some())
    }

    /// Returns the policies that apply to the identity. Returns `None` if no policy applies.
    #[inline]
    pub(crate) fn applicable_limits(&self) -> Option<Cow<'a, Limits>> {
        let applies = |policy: &Policy| self.level_of(policy).is_some();
        match self.limits.policies().iter().all(applies) {
            true => Some(Cow::Borrowed(self.limits)),
            false => self.limits.filter(applies).map(Cow::Owned),
        }
    }

    pub(crate) fn time_left(self, time_left: Duration) -> Self {
        Self { time_left, ..self }
    }

    /// Sets when the caller began to wait, which saves the store a clock reading.
    pub(crate) fn started(self, started: Option<Instant>) -> Self {
        Self { started, ..self }
    }

    /// Returns when the caller began to wait: now, if that was not set.
    #[cfg(feature = "redis")]
    pub(crate) fn started_at(&self) -> Instant {
        self.started.unwrap_or_else(Instant::now)
    }

    /// Sets the states that the fallback counted and the store has not seen.
    pub(crate) fn with_fallback(self, fallback: Option<&'a FallbackStates>) -> Self {
        Self { fallback, ..self }
    }

    /// Whether the check is charged once, at once, and brings no states of the fallback.
    pub(crate) fn is_plain(&self) -> bool {
        self.fallback.is_none() && self.replicas == 1 && !self.reserves
    }

    /// Reserves the cost under quotas that can, and asks the store for a [`Receipt`](super::Receipt).
    pub(crate) fn reserving(self) -> Self {
        Self {
            reserves: true,
            ..self
        }
    }

    /// Returns whether the caller will settle the charge: the store reserves the cost under quotas that
    /// [can](Quota::reserve_for), and returns a [`Receipt`](super::Receipt) with an allowed verdict.
    pub fn reserves(&self) -> bool {
        self.reserves
    }

    pub(crate) fn replicas(&self) -> u32 {
        self.replicas
    }

    /// Charges each admission for this many replicas.
    pub(crate) fn for_replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// Converts the check into one that owns its parts.
    pub fn into_owned(self) -> OwnedCheck {
        OwnedCheck {
            identity: self.identity.clone(),
            limits: self.limits.clone(),
            scope: self.scope.clone(),
            cost: self.cost,
            time_left: self.time_left,
            max_wait: self.max_wait,
            fallback: self.fallback.cloned().map(Box::new),
            reserves: self.reserves,
            replicas: self.replicas,
        }
    }

    /// Returns the state that the limiter's fallback counted under the policy at index `policy` while
    /// the store was unavailable, moved to a clock that shows `now` (microseconds since the Unix
    /// epoch).
    ///
    /// [`decide`](Check::decide) joins it with the store's state. A store that decides by other means
    /// must [join](Quota::join) the two itself, and write the result even if it denies the check.
    pub fn fallback_state(&self, policy: usize, now: u64) -> Option<State> {
        let fallback = self.fallback?;
        let quota = self.limits.policies().get(policy)?.quota();
        Some(quota.rebase(*fallback.states.get(policy)?, fallback.now, now))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn fallback_states(&self) -> Option<&'a FallbackStates> {
        self.fallback
    }

    /// Decides this check by the states of its policies, in order, at `now` (microseconds since the
    /// Unix epoch). It charges all policies or none.
    ///
    /// A missing state is that of an identity without earlier requests. The states that the
    /// [`Limiter`](crate::Limiter)'s fallback counted while the store was unavailable are joined in.
    pub fn decide(&self, now: u64, states: impl IntoIterator<Item = State>) -> Step {
        let mut states = states.into_iter();
        if let [policy] = self.limits.policies() {
            // Most limits have one policy (bench: steps::local::store).
            let state = states.next().unwrap_or_default();
            let (state, next, status) = self.step(0, policy.quota(), state, now);
            return Step {
                verdict: Verdict::of_one(now, state, status),
                next: PerPolicy::from_buf_and_len([next; 2], 1),
            };
        }
        let mut step = Step {
            verdict: Verdict::new(true, now, []),
            next: PerPolicy::new(),
        };
        let verdict = &mut step.verdict;
        for (policy, quota) in self.quotas().enumerate() {
            let state = states.next().unwrap_or_default();
            let (state, next, status) = self.step(policy, quota, state, now);
            verdict.allowed &= status.is_allowed();
            verdict.states.push(state);
            verdict.statuses.push(status);
            step.next.push(next);
        }
        if !verdict.allowed {
            // The policies that would have admitted the check are not charged. A cost of 0 still
            // corrects a state that a clock which stepped back has left in the future.
            for (policy, quota) in self.quotas().enumerate() {
                if verdict.statuses[policy].is_allowed() {
                    let (next, status) = quota.step(verdict.states[policy], now, 0);
                    verdict.statuses[policy] = status.divide_remaining(self.unit_under(quota));
                    step.next[policy] = next;
                }
            }
        }
        step
    }

    /// Returns each policy's state after this check, or `None` if a policy denies it. Agrees with
    /// [`decide`](Check::decide).
    #[cfg(feature = "redis")]
    pub(crate) fn charge(&self, now: u64, states: &[State]) -> Option<PerPolicy<State>> {
        let mut charged = PerPolicy::new();
        for (policy, (quota, state)) in self.quotas().zip(states).enumerate() {
            let (_, next, status) = self.step(policy, quota, *state, now);
            if !status.is_allowed() {
                return None;
            }
            charged.push(next);
        }
        Some(charged)
    }

    /// Returns whether the check would have been allowed if nothing had been reserved.
    #[cfg(feature = "redis")]
    pub(crate) fn fits_unreserved(&self, verdict: &Verdict) -> bool {
        if !self.limits.is_reserving() {
            return false;
        }
        let states = self.quotas().zip(&verdict.states);
        let states = states.map(|(quota, state)| quota.without_reserved(*state));
        let states: PerPolicy<State> = states.collect();
        self.with_fallback(None)
            .charge(verdict.now, &states)
            .is_some()
    }

    /// Computes the status of each policy from a verdict, by the arithmetic that decided it.
    ///
    /// # Errors
    ///
    /// If the verdict has the wrong number of states, or says otherwise than its states.
    pub(crate) fn replay(&self, verdict: &Verdict) -> Result<PerPolicy<Status>, StoreError> {
        let statuses = match &verdict.statuses[..] {
            [] => {
                let states = verdict.states.iter().copied();
                let replayed = self.with_fallback(None).decide(verdict.now, states);
                replayed.verdict.statuses
            }
            statuses => PerPolicy::from_slice(statuses),
        };
        let is_complete = verdict.states.len() == self.limits.policies().len();
        if !is_complete || verdict.allowed != statuses.iter().all(Status::is_allowed) {
            let contradiction = "the verdict contradicts its states";
            return Err(StoreError::new(StoreErrorKind::Unusable, contradiction));
        }
        Ok(statuses)
    }

    /// Computes the status that each policy would give this check by these states: the status of the
    /// denial if the cost does not fit, and otherwise the status without the charge, with the delay that
    /// the charge would have.
    pub(crate) fn preview(&self, now: u64, states: &[State]) -> PerPolicy<Status> {
        let preview = |(quota, state): (&Quota, &State)| {
            let (_, status) = self.charge_quota(quota, *state, now);
            let status = match status.is_allowed() {
                true => quota.step(*state, now, 0).1.delayed_like(&status),
                false => status,
            };
            status.divide_remaining(self.unit_under(quota))
        };
        self.quotas().zip(states).map(preview).collect()
    }

    /// Charges one policy. Returns its state before the charge, with the fallback's state joined in,
    /// the state after it, and the status.
    #[inline]
    fn step(&self, policy: usize, quota: &Quota, state: State, now: u64) -> (State, State, Status) {
        let fallback = self.fallback_state(policy, now);
        let state = fallback.map_or(state, |fallback| quota.join(state, fallback, now));
        let (next, status) = self.charge_quota(quota, state, now);
        (state, next, status.divide_remaining(self.unit_under(quota)))
    }

    #[inline]
    fn charge_quota(&self, quota: &Quota, state: State, now: u64) -> (State, Status) {
        let max_wait = self.max_wait.unwrap_or_default();
        quota.charge(state, now, self.cost_under(quota), max_wait, self.reserves)
    }

    pub(crate) fn quotas(&self) -> impl Iterator<Item = &'a Quota> + use<'a> {
        self.limits.policies().iter().map(|policy| policy.quota())
    }

    /// Returns the cost that a policy is charged.
    pub(crate) fn cost_under(&self, quota: &Quota) -> u32 {
        quota.shared_cost(self.cost, self.replicas)
    }

    /// Returns the cost that a policy reserves.
    pub(crate) fn reserved_under(&self, quota: &Quota) -> u32 {
        match quota.is_reserving() {
            true => self.cost_under(quota),
            false => 0,
        }
    }

    /// Returns the cost at which a policy is settled if the request used `used`.
    pub(crate) fn used(&self, used: u32) -> u32 {
        used.saturating_mul(self.replicas)
    }

    /// Returns the cost that a policy is charged for a check of cost 1.
    pub(crate) fn unit_under(&self, quota: &Quota) -> u32 {
        quota.shared_cost(1, self.replicas)
    }
}

/// A [`Check`] that owns its parts, for a store whose answer is pending.
#[derive(Clone, Debug)]
pub struct OwnedCheck {
    identity: Identity,
    limits: Limits,
    scope: Scope,
    cost: u32,
    time_left: Duration,
    max_wait: Option<Duration>,
    /// Boxed, since few checks have it.
    fallback: Option<Box<FallbackStates>>,
    reserves: bool,
    replicas: u32,
}

impl OwnedCheck {
    /// Returns the check.
    pub fn borrow(&self) -> Check<'_> {
        Check {
            identity: &self.identity,
            limits: &self.limits,
            scope: &self.scope,
            cost: self.cost,
            time_left: self.time_left,
            max_wait: self.max_wait,
            started: None,
            fallback: self.fallback.as_deref(),
            reserves: self.reserves,
            replicas: self.replicas,
        }
    }
}

/// The states of a check's policies that the limiter's fallback counted while the store was
/// unavailable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FallbackStates {
    pub(crate) states: PerPolicy<State>,
    /// The fallback's clock when the states were read, in microseconds since the Unix epoch.
    pub(crate) now: u64,
}

#[cfg(feature = "redis")]
impl FallbackStates {
    /// Joins in the states of another check of the same limits.
    pub(crate) fn join(&mut self, limits: &Limits, other: &Self) {
        let states = self.states.iter_mut().zip(&other.states);
        for (policy, (state, other_state)) in limits.policies().iter().zip(states) {
            let quota = policy.quota();
            let other_state = quota.rebase(*other_state, other.now, self.now);
            *state = quota.join(*state, other_state, self.now);
        }
    }

    /// Returns the state of the policy at index `policy` relative to `now`, as
    /// [`Quota::encode_relative`](crate::Quota::encode_relative) formats it.
    pub(crate) fn relative(&self, limits: &Limits, policy: usize) -> Option<String> {
        let quota = limits.policies().get(policy)?.quota();
        quota.encode_relative(*self.states.get(policy)?, self.now)
    }
}

/// The kind of the identities of probes, which no request has.
pub(super) const PROBE: Kind = Kind::new("tollgate");

/// The identity of probes.
pub(super) fn probe_identity() -> &'static Identity {
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::new(&PROBE, "probe"));
    &IDENTITY
}

/// The check that a probe sends.
pub(super) fn probe(time_left: Duration) -> Check<'static> {
    static LIMITS: LazyLock<Limits> = LazyLock::new(|| Quota::per_second(1_000).into());
    Check::new(probe_identity(), &LIMITS).time_left(time_left)
}
