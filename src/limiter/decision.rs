use std::borrow::Cow;
use std::time::Duration;

use crate::quota::{Limits, Policy, State, Status};
use crate::store::{Check, PerPolicy, StoreError, Verdict};

/// The result of a check, with the numbers for the client.
///
/// The numbers are those of the *binding* policy: on a denial the policy with the longest wait,
/// otherwise the policy with the least remaining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    limits: Cow<'a, Limits>,
    statuses: PerPolicy<Status>,
    binding: usize,
    allowed: bool,
    degraded: bool,
    refused: bool,
}

impl<'a> Decision<'a> {
    /// Computes the decision from a store's verdict.
    #[inline]
    pub(super) fn replay(check: &Check<'a>, verdict: &Verdict) -> Result<Self, StoreError> {
        Ok(Self::new(check, check.replay(verdict)?))
    }

    /// Computes the decision that a check would get, from the states of a verdict that charged nothing.
    pub(super) fn preview(check: &Check<'a>, verdict: &Verdict) -> Self {
        Self::new(check, check.preview(verdict.now(), verdict.states()))
    }

    /// Computes the decision of a check of one policy, without the search for the binding policy, which
    /// takes 4 ns of 80 (bench: `steps::local::limiter`).
    #[inline]
    pub(super) fn of_one(check: &Check<'a>, status: Status) -> Self {
        Self {
            limits: Cow::Borrowed(check.limits),
            statuses: PerPolicy::from_buf_and_len([status; 2], 1),
            binding: 0,
            allowed: status.is_allowed(),
            degraded: false,
            refused: false,
        }
    }

    /// Allows a request that is exempt, with the whole capacity remaining.
    pub(crate) fn exempt(limits: &'a Limits) -> Self {
        let statuses = limits.policies().iter().map(|policy| {
            let (_, full) = policy.quota().step(State::default(), 0, 0);
            full
        });
        Self::of(limits, statuses.collect())
    }

    /// Allows the request without a limit.
    pub(super) fn unlimited(check: &Check<'a>) -> Self {
        Self::exempt(check.limits).degraded()
    }

    /// Refuses the request, to be retried after `wait`.
    pub(super) fn refused(check: &Check<'a>, wait: Duration) -> Self {
        let refused = check.quotas().map(|_| Status::refused(wait)).collect();
        Self {
            refused: true,
            ..Self::new(check, refused).degraded()
        }
    }

    /// Denies a check to which no policy applies.
    pub(super) fn never(check: &Check<'a>) -> Self {
        Self::new(check, check.quotas().map(|_| Status::never()).collect())
    }

    #[inline]
    fn new(check: &Check<'a>, statuses: PerPolicy<Status>) -> Self {
        Self::of(check.limits, statuses)
    }

    #[inline]
    fn of(limits: &'a Limits, statuses: PerPolicy<Status>) -> Self {
        let allowed = statuses.iter().all(Status::is_allowed);
        Self {
            limits: Cow::Borrowed(limits),
            binding: binding(&statuses, allowed),
            statuses,
            allowed,
            degraded: false,
            refused: false,
        }
    }

    pub(super) fn degraded(self) -> Self {
        Self {
            degraded: true,
            ..self
        }
    }

    /// Returns the decision with its numbers as of the end of its delay.
    pub(crate) fn after_delay(mut self) -> Self {
        let delay = self.delay();
        for status in &mut self.statuses {
            *status = status.after(delay);
        }
        self
    }

    /// Returns the decision with the numbers that remain after a charge of `cost` is settled at `used`.
    pub(super) fn settled(mut self, cost: u32, used: u32) -> Self {
        for (policy, status) in self.limits.policies().iter().zip(&mut self.statuses) {
            *status = policy.quota().settled_status(*status, cost, used);
        }
        self.binding = binding(&self.statuses, self.allowed);
        self
    }

    /// Converts the decision into one that borrows nothing.
    pub fn into_owned(self) -> Decision<'static> {
        Decision {
            limits: Cow::Owned(self.limits.into_owned()),
            ..self
        }
    }

    /// Returns whether the request may proceed.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Returns whether a [`FailureStrategy`](crate::FailureStrategy) decided, since the store did not.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Returns whether the request was refused because the store was unavailable, and not because a
    /// limit was reached.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the index of the binding policy.
    pub(crate) fn binding(&self) -> usize {
        self.binding
    }

    /// Returns the binding policy.
    pub fn policy(&self) -> &Policy {
        &self.limits.policies()[self.binding]
    }

    /// Returns the [`capacity`](crate::Quota::capacity) of the binding policy's quota: the cost that it allows
    /// at once, and the value of `X-RateLimit-Limit`. The quota's rate is [`Quota::limit`](crate::Quota::limit).
    pub fn capacity(&self) -> u32 {
        self.policy().quota().capacity()
    }

    /// Returns the cost that the binding policy still allows now, of its
    /// [`capacity`](Decision::capacity).
    pub fn remaining(&self) -> u32 {
        self.status().remaining()
    }

    /// Returns how long the request must wait for its place in a [queue](crate::Quota::queue) before it
    /// proceeds: zero unless a queue admitted it.
    ///
    /// [`Limiter::acquire`](crate::Limiter::acquire) and [`RateLimitLayer`](crate::RateLimitLayer) wait for
    /// it. After [`Limiter::check`](crate::Limiter::check) of a check with a
    /// [`max_wait`](Check::max_wait), the caller must.
    pub fn delay(&self) -> Duration {
        // Only one policy can have a queue.
        let delays = self.statuses.iter().map(Status::delay);
        delays.max().filter(|_| self.allowed).unwrap_or_default()
    }

    pub(crate) fn is_delayed(&self) -> bool {
        !self.delay().is_zero()
    }

    /// Returns the time until the same request would be allowed: zero if it was allowed, `None` if its
    /// cost exceeds the capacity, so that it never will be.
    ///
    /// For a quota that [reserves](crate::Quota::reserve_for), the time is an estimate, since the time of
    /// a settlement is unknown: a second for a concurrency limit.
    pub fn retry_after(&self) -> Option<Duration> {
        self.status().retry_after()
    }

    /// Returns the time until the binding policy allows its whole capacity again.
    pub fn reset_after(&self) -> Duration {
        self.status().reset_after()
    }

    fn status(&self) -> &Status {
        &self.statuses[self.binding]
    }

    /// Returns the policies that denied the request.
    pub(crate) fn violated(&self) -> impl Iterator<Item = &Policy> {
        let denied = self.policies().filter(|(_, status)| !status.is_allowed());
        denied.map(|(policy, _)| policy)
    }

    /// Returns every policy with its status, in order.
    pub fn policies(&self) -> impl Iterator<Item = (&Policy, &Status)> + Clone {
        self.limits.policies().iter().zip(&self.statuses)
    }
}

/// Returns the index of the binding policy.
#[inline]
fn binding(statuses: &[Status], allowed: bool) -> usize {
    let wait = |status: &Status| status.retry_after().unwrap_or(Duration::MAX);
    // Of equal policies, the first one binds.
    (1..statuses.len()).fold(0, |binding, index| {
        let (current, next) = (&statuses[binding], &statuses[index]);
        let is_tighter = match allowed {
            true => next.remaining() < current.remaining(),
            false => wait(next) > wait(current),
        };
        if is_tighter { index } else { binding }
    })
}
