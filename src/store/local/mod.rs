mod pages;
mod sync;
mod table;

pub(crate) use table::Table;

use super::{Check, Outcome, Store, Verdict};
use crate::clock::Clock;
use crate::quota::Status;

/// How many counts [`LocalStore::new`] has room for.
const CAPACITY: usize = 100_000;

/// Counts in this process: exact, bounded in memory, never failing, never waiting.
///
/// A table of a fixed size, made at once: 64 bytes for each count that it has room for, a count
/// being an identity under one policy. Nothing is allocated afterwards and no task sweeps the table:
/// an expired count's slot is reused when it is needed. A live count is evicted only when a new one
/// finds all of its ten possible slots taken by live counts: the one that has used the smallest part
/// of its quota. At the stated capacity that happens to fewer than one count in ten million;
/// `rate_limit_evictions_total` counts it. Slots are chosen by a hash with a secret key of this
/// process, so no client can aim at another's count.
///
/// ```
/// use tollgate::{LocalStore, Quota, RateLimitLayer};
///
/// let store = LocalStore::with_capacity(1_000_000); // about 64 MB
/// let layer = RateLimitLayer::new(Quota::per_second(5).burst(10), store);
/// ```
#[derive(Debug)]
pub struct LocalStore {
    table: Table,
}

impl LocalStore {
    /// A store for 100,000 counts: about 6.4 MB.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// A store for that many counts: identities times policies. Rounded up to what the policies of
    /// one check need.
    ///
    /// # Panics
    ///
    /// If so much cannot be allocated.
    pub fn with_capacity(capacity: usize) -> Self {
        let table = Table::with_capacity(capacity, "local");
        Self { table }
    }

    /// The same store with another clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.table.set_clock(clock);
        self
    }
}

impl Default for LocalStore {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalStore {
    /// What there is to tell, in the common case: as [`check`](Store::check) decides, without a
    /// verdict to be moved about.
    #[inline]
    pub(crate) fn decide_one(&self, check: &Check<'_>) -> Option<Status> {
        let (_, _, status) = self.table.decide_one(check)?;
        Some(status)
    }

    /// Apart, so that what it takes is not there in the common case.
    #[cold]
    #[inline(never)]
    pub(crate) fn check_row(&self, check: &Check<'_>) -> Outcome {
        Outcome::Ready(Ok(self.table.row(check).decide(false)))
    }
}

impl Store for LocalStore {
    fn check(&self, check: &Check<'_>) -> Outcome {
        if let Some((now, state, status)) = self.table.decide_one(check) {
            return Outcome::Ready(Ok(Verdict::of_one(now, state, status)));
        }
        self.check_row(check)
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        self.table.row(check).clear();
        Outcome::Ready(Ok(()))
    }

    fn name(&self) -> &'static str {
        "local"
    }

    fn is_infallible(&self) -> bool {
        true
    }
}
