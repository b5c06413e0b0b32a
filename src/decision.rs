use std::borrow::Cow;
use std::time::Duration;

use crate::quota::{Limits, Policy, Quota, State, Status};
use crate::store::{Check, PerPolicy, StoreError, StoreErrorKind, Verdict};

/// What was decided, and what there is to tell the client.
///
/// Its numbers are those of the *binding* policy: the one that denied with the longest wait, else
/// the one with the least left.
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
    /// Computes what to tell of a store's verdict, by the same steps that decided it.
    #[inline]
    pub(crate) fn replay(check: &Check<'a>, verdict: &Verdict) -> Result<Self, StoreError> {
        let complete = verdict.states.len() == check.limits.policies().len();
        let decision = match &verdict.statuses[..] {
            [] => {
                let states = verdict.states.iter().copied();
                let replayed = check.carrying(None).decide(verdict.now, states);
                Self::new(check, replayed.verdict.statuses)
            }
            // Nearly always, and without a loop.
            [status] => Self::of_one(check, *status),
            statuses => Self::new(check, PerPolicy::from_slice(statuses)),
        };
        if !complete || decision.allowed != verdict.allowed {
            let contradiction = "the verdict does not follow from its states";
            return Err(StoreError::new(StoreErrorKind::Unusable, contradiction));
        }
        Ok(decision)
    }

    /// Computes what a check would get upon the states of a verdict, which charges nothing.
    pub(crate) fn preview(check: &Check<'a>, verdict: &Verdict) -> Self {
        Self::new(check, check.preview(verdict.now, &verdict.states))
    }

    #[inline]
    pub(crate) fn of_one(check: &Check<'a>, status: Status) -> Self {
        Self {
            limits: Cow::Borrowed(check.limits),
            statuses: PerPolicy::from_buf_and_len([status; 2], 1),
            binding: 0,
            allowed: status.is_allowed(),
            degraded: false,
            refused: false,
        }
    }

    /// Let through without a count.
    pub(crate) fn unlimited(check: &Check<'a>) -> Self {
        let untouched = |quota: &Quota| quota.step(State::default(), 0, 0).1;
        Self::new(check, check.quotas().map(untouched).collect()).degraded()
    }

    /// Refused without a count, for at least `wait`.
    pub(crate) fn refused(check: &Check<'a>, wait: Duration) -> Self {
        let refused = check.quotas().map(|_| Status::refused(wait)).collect();
        Self {
            refused: true,
            ..Self::new(check, refused).degraded()
        }
    }

    #[inline]
    fn new(check: &Check<'a>, statuses: PerPolicy<Status>) -> Self {
        let allowed = statuses.iter().all(Status::is_allowed);
        let wait = |status: &Status| status.retry_after().unwrap_or(Duration::MAX);
        // The first of equals.
        let binding = (1..statuses.len()).fold(0, |binding, index| {
            let (one, other) = (&statuses[binding], &statuses[index]);
            let tighter = match allowed {
                true => other.remaining() < one.remaining(),
                false => wait(other) > wait(one),
            };
            if tighter { index } else { binding }
        });
        let limits = Cow::Borrowed(check.limits);
        Self {
            limits,
            statuses,
            binding,
            allowed,
            degraded: false,
            refused: false,
        }
    }

    pub(crate) fn degraded(self) -> Self {
        Self {
            degraded: true,
            ..self
        }
    }

    /// The same decision, borrowing nothing.
    pub fn into_owned(self) -> Decision<'static> {
        Decision {
            limits: Cow::Owned(self.limits.into_owned()),
            ..self
        }
    }

    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Whether the store was away, so that a [`FailureStrategy`](crate::FailureStrategy) decided.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Whether the request was denied because the store was away, and not because of a limit.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Which policy is the binding one.
    pub(crate) fn binding(&self) -> usize {
        self.binding
    }

    /// The binding policy.
    pub fn policy(&self) -> &Policy {
        &self.limits.policies()[self.binding]
    }

    /// How much the binding policy allows at once: its quota's [`capacity`](Quota::capacity), which
    /// `X-RateLimit-Limit` holds. The quota's rate is [`Quota::limit`].
    pub fn capacity(&self) -> u32 {
        self.policy().quota().capacity()
    }

    /// How much of the [`capacity`](Decision::capacity) is left.
    pub fn remaining(&self) -> u32 {
        self.status().remaining()
    }

    /// How long to wait before the same request will fit: zero if it was allowed, `None` if its
    /// cost is above what the policy ever allows at once.
    pub fn retry_after(&self) -> Option<Duration> {
        self.status().retry_after()
    }

    /// How long until the binding policy allows its whole limit again.
    pub fn reset_after(&self) -> Duration {
        self.status().reset_after()
    }

    fn status(&self) -> &Status {
        &self.statuses[self.binding]
    }

    /// The policies that denied.
    pub(crate) fn violated(&self) -> impl Iterator<Item = &Policy> {
        let denied = self.policies().filter(|(_, status)| !status.is_allowed());
        denied.map(|(policy, _)| policy)
    }

    /// Every policy with its own status, in order.
    pub fn policies(&self) -> impl Iterator<Item = (&Policy, &Status)> + Clone {
        self.limits.policies().iter().zip(&self.statuses)
    }
}
