pub(crate) use super::per_policy::PerPolicy;
use super::receipt::Receipt;
use crate::quota::{MAX_POLICIES, State, Status};

/// A store's result of a check: whether the check was charged, when, and the state of each policy
/// before it.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) now: u64,
    pub(crate) states: PerPolicy<State>,
    /// The status of each policy, or empty if [`Check::decide`](super::Check::decide) did not compute
    /// it.
    pub(crate) statuses: PerPolicy<Status>,
    pub(crate) remembered: bool,
    /// Boxed, since few checks have it.
    pub(crate) receipt: Option<Box<Receipt>>,
}

impl Verdict {
    /// Creates a verdict. `now` is the time of the store's clock, in microseconds since the Unix epoch;
    /// `states` are the states of the check's policies before it, in order.
    ///
    /// States after the first [`MAX_POLICIES`](crate::MAX_POLICIES) are dropped.
    pub fn new(allowed: bool, now: u64, states: impl IntoIterator<Item = State>) -> Self {
        let states = states.into_iter().take(MAX_POLICIES).collect();
        Self {
            allowed,
            now,
            states,
            statuses: PerPolicy::new(),
            remembered: false,
            receipt: None,
        }
    }

    /// Creates a verdict with a copy of these states.
    #[cfg(feature = "redis")]
    #[inline]
    pub(crate) fn with_states(allowed: bool, now: u64, states: &[State]) -> Self {
        Self {
            allowed,
            now,
            states: PerPolicy::from_slice(states),
            statuses: PerPolicy::new(),
            remembered: false,
            receipt: None,
        }
    }

    /// Creates the verdict on a check of one policy.
    #[inline(always)]
    pub(crate) fn of_one(now: u64, state: State, status: Status) -> Self {
        Self {
            allowed: status.is_allowed(),
            now,
            states: PerPolicy::from_buf_and_len([state; 2], 1),
            statuses: PerPolicy::from_buf_and_len([status; 2], 1),
            remembered: false,
            receipt: None,
        }
    }

    /// Marks the verdict as one that the store's client remembered instead of sending the check: it is
    /// not a sign that the store works.
    #[must_use]
    pub fn remembered(self) -> Self {
        Self {
            remembered: true,
            ..self
        }
    }

    /// Adds the receipt of a check that [reserves](super::Check::reserves).
    #[must_use]
    pub fn with_receipt(self, receipt: Receipt) -> Self {
        Self {
            receipt: Some(Box::new(receipt)),
            ..self
        }
    }

    /// Returns the time of the decision by the store's clock, in microseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Returns the state of each of the check's policies before it, in order.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// Returns whether the check was allowed, and so charged.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }
}

/// Ignores the receipt, and the statuses, which follow from the other fields.
impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        (self.allowed, self.now, self.remembered, &self.states)
            == (other.allowed, other.now, other.remembered, &other.states)
    }
}

impl Eq for Verdict {}

/// The result of [`Check::decide`](super::Check::decide): the verdict, and the states to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The verdict that the store returns.
    pub verdict: Verdict,
    pub(crate) next: PerPolicy<State>,
}

impl Step {
    /// Returns each policy's state after the check, in order.
    ///
    /// The store must write a state that differs from its own even if the check was denied or had a
    /// cost of 0, since a state of the limiter's fallback may have been joined in.
    pub fn states(&self) -> &[State] {
        &self.next
    }
}
