use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use super::any_store::AnyStore;
use super::failure::{FailureStrategy, Fallback};
use super::lane::Lanes;
use super::limiter::{Limiter, Shared};
use super::metrics::Meter;
use crate::deadlines::Deadlines;

/// Options of a [`Limiter`].
#[must_use = "call `build` to get the limiter"]
pub struct LimiterBuilder {
    store: AnyStore,
    deadline: Duration,
    failures_to_open: NonZeroU32,
    strategy: FailureStrategy,
    fallback_capacity: usize,
    fallback_share: NonZeroU32,
}

impl LimiterBuilder {
    pub(super) fn new(store: AnyStore) -> Self {
        Self {
            store,
            deadline: Duration::from_millis(50),
            failures_to_open: NonZeroU32::new(3).expect("3 is not 0"),
            strategy: FailureStrategy::default(),
            fallback_capacity: 100_000,
            fallback_share: NonZeroU32::MIN,
        }
    }

    /// How long a check may take in all: 50 ms unless set. A store that is slower counts as down.
    ///
    /// # Panics
    ///
    /// If it is zero: no store could ever answer in time.
    pub fn deadline(self, deadline: Duration) -> Self {
        assert!(
            !deadline.is_zero(),
            "a deadline of zero leaves a store no time to answer; use 1 ms or more"
        );
        Self { deadline, ..self }
    }

    /// How many round trips in a row must fail before requests stop waiting for the store: 3
    /// unless set.
    pub fn failures_to_open(self, failures: NonZeroU32) -> Self {
        Self {
            failures_to_open: failures,
            ..self
        }
    }

    /// What to do while the store does not decide. A layer can have its own.
    pub fn failure_strategy(self, strategy: FailureStrategy) -> Self {
        Self { strategy, ..self }
    }

    /// How many counts (identities times policies) the fallback of [`FailureStrategy::Open`] has
    /// room for: 100,000 unless set, at 64 bytes each. A store in the process has no fallback.
    pub fn fallback_capacity(self, capacity: usize) -> Self {
        Self {
            fallback_capacity: capacity,
            ..self
        }
    }

    /// How many replicas of the application share the limits: 1 unless set.
    ///
    /// While the store is away each replica counts alone, so that together they would allow the
    /// limit as many times over. With the replicas' number set, each charges an admission that
    /// many times, as if the others did the same (but once where only an answer was slow and the
    /// breaker is closed). A full quota still admits whatever it would
    /// otherwise, so at least one request passes in each replica.
    pub fn fallback_share(self, replicas: NonZeroU32) -> Self {
        Self {
            fallback_share: replicas,
            ..self
        }
    }

    /// The limiter.
    #[must_use]
    pub fn build(self) -> Limiter {
        let shared = Shared {
            is_infallible: self.store.is_infallible(),
            meter: Meter::new(self.store.name()),
            store: self.store,
            deadline: self.deadline,
            lanes: Lanes::new(self.failures_to_open),
            deadlines: Deadlines::default(),
        };
        let capacity = shared.fallback_capacity(self.fallback_capacity);
        let fallback = Fallback::new(capacity, self.fallback_share.get());
        Limiter::new(shared, fallback, self.strategy)
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
            .field("fallback_share", &self.fallback_share)
            .finish()
    }
}
