mod table;

use std::fmt;

pub(crate) use table::Table;

use super::verdict::PerPolicy;
use super::{Check, Outcome, Store, Verdict};
use crate::clock::{Clock, SystemClock};
use crate::quota::State;

/// How many counts [`LocalStore::new`] has room for.
const CAPACITY: usize = 100_000;

/// Counts in this process: exact, bounded in memory, never failing, never waiting.
///
/// A table of a fixed size, made at once: 48 bytes for each count that it has room for, a count
/// being an identity under one policy. Nothing is allocated afterwards and nothing sweeps it: a
/// count that has run its course is as good as none, and its place is taken when needed. Only when
/// every place that an identity could have is taken by a live count is the one with the least debt
/// forgotten; `rate_limit_evictions_total` counts that. Places are chosen by a hash with a key of
/// this process, so no client can aim at another's.
///
/// ```
/// use tollgate::{LocalStore, Quota, RateLimitLayer};
///
/// let store = LocalStore::with_capacity(1_000_000); // about 48 MB
/// let layer = RateLimitLayer::new(Quota::per_second(5).burst(10), store);
/// ```
pub struct LocalStore {
    table: Table,
    clock: Box<dyn Clock>,
}

impl LocalStore {
    /// A store for 100,000 counts: about 5 MB.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// A store for that many counts: identities times policies. Rounded up to what the policies of
    /// one check need.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            table: Table::with_capacity(capacity, "local"),
            clock: Box::new(SystemClock::new()),
        }
    }

    /// The same store with another clock.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        Self {
            clock: Box::new(clock),
            ..self
        }
    }
}

impl Default for LocalStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capacity = self.table.capacity();
        f.debug_struct("LocalStore")
            .field("capacity", &capacity)
            .finish_non_exhaustive()
    }
}

impl Store for LocalStore {
    fn check(&self, check: &Check<'_>) -> Outcome {
        let now = self.clock.now();
        Outcome::Ready(Ok(self.table.check(check, now, false)))
    }

    fn refund(&self, check: &Check<'_>) -> Outcome<()> {
        self.table.refund(check, self.clock.now());
        Outcome::Ready(Ok(()))
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        self.table.row(check, self.clock.now()).clear();
        Outcome::Ready(Ok(()))
    }

    fn name(&self) -> &'static str {
        "local"
    }

    fn is_infallible(&self) -> bool {
        true
    }
}

impl Table {
    /// Decides a check; marks the counts that it charges, if asked to.
    pub(crate) fn check(&self, check: &Check<'_>, now: u64, mark: bool) -> Verdict {
        let mut row = self.row(check, now);
        let held: PerPolicy<State> = row.states().collect();
        let step = check.decide(now, held.iter().copied());
        for (policy, (state, held)) in step.states().iter().zip(&held).enumerate() {
            if state != held {
                row.set(policy, *state, mark);
            }
        }
        row.estimate();
        step.verdict
    }

    /// Gives back what a check was charged; a mark stays.
    pub(crate) fn refund(&self, check: &Check<'_>, now: u64) {
        let mut row = self.row(check, now);
        let counts: PerPolicy<(State, bool)> = row.states().zip(row.marks()).collect();
        for (policy, ((state, mark), quota)) in counts.into_iter().zip(check.quotas()).enumerate() {
            row.set(
                policy,
                quota.refund(state, now, check.cost_under(quota)),
                mark,
            );
        }
    }
}
