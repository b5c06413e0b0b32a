use smallvec::SmallVec;

use crate::quota::{MAX_POLICIES, State, Status};

/// A value a policy. Most limits have one policy or two, and these are moved often.
pub(crate) type PerPolicy<T> = SmallVec<[T; 2]>;

/// What a store says of a check: whether it charged, by which clock, and each policy's state as it
/// was before.
#[derive(Clone, Debug, Eq)]
pub struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) now: u64,
    pub(crate) states: PerPolicy<State>,
    /// What follows from the states, where [`Check::decide`](super::Check::decide) has said it.
    pub(crate) statuses: PerPolicy<Status>,
    pub(crate) remembered: bool,
}

impl Verdict {
    /// A verdict at `now`, in microseconds since the Unix epoch by the store's clock, with the
    /// state before the check of each of its policies, in order.
    ///
    /// States past the [`MAX_POLICIES`](crate::MAX_POLICIES)th are dropped.
    pub fn new(allowed: bool, now: u64, states: impl IntoIterator<Item = State>) -> Self {
        let states = states.into_iter().take(MAX_POLICIES).collect();
        Self {
            allowed,
            now,
            states,
            statuses: PerPolicy::new(),
            remembered: false,
        }
    }

    /// The verdict of the only policy there is.
    #[inline(always)]
    pub(crate) fn of_one(now: u64, state: State, status: Status) -> Self {
        Self {
            allowed: status.is_allowed(),
            now,
            states: PerPolicy::from_buf_and_len([state; 2], 1),
            statuses: PerPolicy::from_buf_and_len([status; 2], 1),
            remembered: false,
        }
    }

    /// The same verdict, given from memory without asking where the counts live: it proves nothing
    /// of the store's health.
    #[must_use]
    pub fn remembered(self) -> Self {
        Self {
            remembered: true,
            ..self
        }
    }

    /// When it was decided, in microseconds since the Unix epoch by the store's clock.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The state before the check of each of its policies, in order.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// Whether the check was let through, and charged.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }
}

/// Whether they say the same: what follows from the states need not have been said.
impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        let said = |verdict: &Self| (verdict.allowed, verdict.now, verdict.remembered);
        said(self) == said(other) && self.states == other.states
    }
}

/// A check decided upon states: the verdict, and the states to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the store is to answer.
    pub verdict: Verdict,
    pub(crate) next: PerPolicy<State>,
}

impl Step {
    /// Each policy's state after the check, in order.
    ///
    /// To be written even if the check was denied or only looked, unless it is what the store
    /// holds already: it may have been joined with what was counted elsewhere.
    pub fn states(&self) -> &[State] {
        &self.next
    }
}
