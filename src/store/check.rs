use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use super::verdict::{PerPolicy, Step, Verdict};
use crate::identity::Identity;
use crate::quota::{Limits, Quota, Scope, State, Status};

static DEFAULT_SCOPE: LazyLock<Scope> = LazyLock::new(Scope::default);

/// A question to decide: may this identity spend this cost now, under these limits?
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
    /// Who is asking.
    pub identity: &'a Identity,
    /// The policies to decide by, all at once.
    pub limits: &'a Limits,
    /// Whose counts these are: different scopes never share.
    pub scope: &'a Scope,
    /// How much is to be spent. A cost of 0 only looks.
    pub cost: u32,
    /// How long the asker will wait from now. A store should not begin what cannot end by then.
    pub time_left: Duration,
    /// When that was, if the clock has been read.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "no other store waits")
    )]
    asked: Option<Instant>,
    carried: Option<&'a Carried>,
    /// How many times over each admission is charged.
    share: u32,
}

impl<'a> Check<'a> {
    /// A check of cost 1 in the default scope.
    pub fn new(identity: &'a Identity, limits: &'a Limits) -> Self {
        Self {
            identity,
            limits,
            scope: &DEFAULT_SCOPE,
            cost: 1,
            time_left: Duration::MAX,
            asked: None,
            carried: None,
            share: 1,
        }
    }

    /// The same check of another cost.
    #[must_use]
    pub fn cost(self, cost: u32) -> Self {
        Self { cost, ..self }
    }

    /// The same check in another scope.
    #[must_use]
    pub fn scope(self, scope: &'a Scope) -> Self {
        Self { scope, ..self }
    }

    pub(crate) fn time_left(self, time_left: Duration) -> Self {
        Self { time_left, ..self }
    }

    pub(crate) fn asked(self, asked: Option<Instant>) -> Self {
        Self { asked, ..self }
    }

    /// When it was asked: now, unless that is known.
    #[cfg(feature = "redis")]
    pub(crate) fn asked_at(&self) -> Instant {
        self.asked.unwrap_or_else(Instant::now)
    }

    pub(crate) fn carrying(self, carried: Option<&'a Carried>) -> Self {
        Self { carried, ..self }
    }

    /// Whether it is charged once, and nothing was counted elsewhere.
    pub(crate) fn is_plain(&self) -> bool {
        self.carried.is_none() && self.share == 1
    }

    pub(crate) fn shared_by(self, share: u32) -> Self {
        Self { share, ..self }
    }

    /// The same check, owning what it asks.
    pub fn into_owned(self) -> OwnedCheck {
        OwnedCheck {
            identity: self.identity.clone(),
            limits: self.limits.clone(),
            scope: self.scope.clone(),
            cost: self.cost,
            time_left: self.time_left,
            carried: self.carried.cloned().map(Box::new),
            share: self.share,
        }
    }

    /// What the [`Limiter`](crate::Limiter) counted under the `policy`-th policy while the store was
    /// away, by a clock that shows `now` (microseconds since the Unix epoch).
    ///
    /// [`decide`](Check::decide) sees to it. A store that decides otherwise must
    /// [join](Quota::join) it with its own state, and keep that, whatever it decides.
    pub fn carried(&self, policy: usize, now: u64) -> Option<State> {
        let carried = self.carried?;
        let quota = self.limits.policies().get(policy)?.quota();
        Some(quota.rebase(*carried.states.get(policy)?, carried.now, now))
    }

    /// What was counted elsewhere.
    #[cfg(feature = "redis")]
    pub(crate) fn carries(&self) -> Option<&'a Carried> {
        self.carried
    }

    /// Decides this check upon the states of its policies, in order, at `now` (microseconds since
    /// the Unix epoch): all or nothing.
    ///
    /// Missing states are those of an identity never seen. This includes whatever the
    /// [`Limiter`](crate::Limiter) counted while the store was away.
    pub fn decide(&self, now: u64, states: impl IntoIterator<Item = State>) -> Step {
        let mut states = states.into_iter();
        if let [policy] = self.limits.policies() {
            // Nearly always, and without a loop.
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
            // Those that would have let it through are not charged. But a state from a clock that
            // has stepped back is put right.
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

    /// Each policy's state after this check, unless it is denied: what [`decide`](Check::decide)
    /// says of it, sooner.
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

    /// The status of each policy if this check were made upon these states: the status of the denial
    /// where the cost does not fit, else that of the state as it is.
    pub(crate) fn preview(&self, now: u64, states: &[State]) -> PerPolicy<Status> {
        let preview = |(quota, state): (&Quota, &State)| {
            let (_, status) = quota.step(*state, now, self.cost_under(quota));
            let status = match status.is_allowed() {
                true => quota.step(*state, now, 0).1,
                false => status,
            };
            status.divide_remaining(self.unit_under(quota))
        };
        self.quotas().zip(states).map(preview).collect()
    }

    /// What one policy makes of a state: that state, with what was counted elsewhere, the one after
    /// this check, and what is left then.
    #[inline]
    fn step(&self, policy: usize, quota: &Quota, state: State, now: u64) -> (State, State, Status) {
        let carried = self.carried(policy, now);
        let state = carried.map_or(state, |carried| quota.join(state, carried, now));
        let (next, status) = quota.step(state, now, self.cost_under(quota));
        (state, next, status.divide_remaining(self.unit_under(quota)))
    }

    pub(crate) fn quotas(&self) -> impl Iterator<Item = &'a Quota> + use<'a> {
        self.limits.policies().iter().map(|policy| policy.quota())
    }

    /// What is charged to one of the policies.
    pub(crate) fn cost_under(&self, quota: &Quota) -> u32 {
        quota.shared_cost(self.cost, self.share)
    }

    /// What a cost of 1 is charged to one of the policies.
    pub(crate) fn unit_under(&self, quota: &Quota) -> u32 {
        quota.shared_cost(1, self.share)
    }
}

/// A [`Check`] that owns what it asks, for a store whose answer is pending.
#[derive(Clone, Debug)]
pub struct OwnedCheck {
    identity: Identity,
    limits: Limits,
    scope: Scope,
    cost: u32,
    time_left: Duration,
    /// Boxed, as it is seldom there.
    carried: Option<Box<Carried>>,
    share: u32,
}

impl OwnedCheck {
    /// The check, as it was.
    pub fn borrow(&self) -> Check<'_> {
        Check {
            identity: &self.identity,
            limits: &self.limits,
            scope: &self.scope,
            cost: self.cost,
            time_left: self.time_left,
            asked: None,
            carried: self.carried.as_deref(),
            share: self.share,
        }
    }
}

/// What was counted elsewhere while the store was away, by another clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) states: PerPolicy<State>,
    pub(crate) now: u64,
}

#[cfg(feature = "redis")]
impl Carried {
    /// Takes on what another one says of the same limits.
    pub(crate) fn join(&mut self, limits: &Limits, other: &Self) {
        let states = self.states.iter_mut().zip(&other.states);
        for (policy, (state, other_state)) in limits.policies().iter().zip(states) {
            let quota = policy.quota();
            let other_state = quota.rebase(*other_state, other.now, self.now);
            *state = quota.join(*state, other_state, self.now);
        }
    }

    /// What it says of the `policy`-th of the limits, relative to now, as
    /// [`Quota::encode_relative`](crate::Quota::encode_relative) writes it.
    pub(crate) fn relative(&self, limits: &Limits, policy: usize) -> Option<String> {
        let quota = limits.policies().get(policy)?.quota();
        quota.encode_relative(*self.states.get(policy)?, self.now)
    }
}

/// The identity of a probe: requests do not have it.
pub(super) fn probe_identity() -> &'static Identity {
    static IDENTITY: LazyLock<Identity> =
        LazyLock::new(|| Identity::new("tollgate", "probe").expect("a good kind"));
    &IDENTITY
}

/// The check that a probe makes.
pub(super) fn probe(time_left: Duration) -> Check<'static> {
    static LIMITS: LazyLock<Limits> = LazyLock::new(|| Quota::per_second(1_000).into());
    Check::new(probe_identity(), &LIMITS).time_left(time_left)
}
