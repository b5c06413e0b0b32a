use super::table::Table;
use crate::clock::Clock;
use crate::quota::Status;
use crate::store::check::Check;
use crate::store::receipt::Receipt;
use crate::store::store::{Outcome, Store};
use crate::store::verdict::Verdict;

/// The capacity of [`LocalStore::new`], in entries.
const CAPACITY: usize = 100_000;

/// A store in this process: exact, with a fixed amount of memory. It never fails and never waits.
///
/// The store is a hash table that is allocated once: 64 bytes for each entry of its capacity. An entry
/// is the state of an identity under one policy. Checks allocate nothing, and no task sweeps the table:
/// the slot of an expired entry is reused when it is needed. A live entry is evicted only if all ten
/// candidate slots of a new entry are taken by live ones; the victim is the entry that has used the
/// smallest share of its quota. At the stated capacity fewer than one in ten million entries is evicted;
/// `rate_limit_evictions_total` counts them. Slots are chosen by a hash with a secret key, so no client
/// can aim at another client's entry.
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
    /// Creates a store with room for 100,000 entries, of about 6.4 MB.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// Creates a store with room for `capacity` entries (identities times policies), or for the policies
    /// of one check if that is more.
    ///
    /// # Panics
    ///
    /// If the memory cannot be allocated.
    pub fn with_capacity(capacity: usize) -> Self {
        let table = Table::with_capacity(capacity, "local");
        Self { table }
    }

    /// Sets the clock: [`SystemClock`](crate::SystemClock) unless set.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.table.set_clock(clock);
        self
    }

    /// Decides a check under the locks of its entries. Not inlined, so that its stack frame does not slow
    /// down lock-free checks (bench: `steps::local`).
    #[cold]
    #[inline(never)]
    fn check_locked(&self, check: &Check<'_>) -> Verdict {
        self.table.lock(check).decide(false)
    }
}

impl Default for LocalStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for LocalStore {
    fn check(&self, check: &Check<'_>) -> Outcome {
        // An early return, so that the verdict is built in place.
        if let Some((now, state, status)) = self.table.charge_lock_free(check) {
            return Outcome::Ready(Ok(Verdict::of_one(now, state, status)));
        }
        Outcome::Ready(Ok(self.check_locked(check)))
    }

    #[inline]
    fn check_now(&self, check: &Check<'_>) -> Option<Status> {
        let [_] = check.limits.policies() else {
            return None;
        };
        if let Some((_, _, status)) = self.table.charge_lock_free(check) {
            return Some(status);
        }
        self.check_locked(check).statuses.first().copied()
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        self.table.lock(check).clear();
        Outcome::Ready(Ok(()))
    }

    fn can_settle(&self) -> bool {
        true
    }

    fn settle(&self, check: &Check<'_>, receipt: &Receipt, used: u32) -> Outcome<()> {
        self.table.lock(check).close(receipt, Some(used));
        Outcome::Ready(Ok(()))
    }

    fn renew(&self, check: &Check<'_>, receipt: &Receipt) -> Outcome<Receipt> {
        Outcome::Ready(Ok(match receipt.marks() {
            [] => self.table.lock(check).open_reservations(),
            _ => receipt.clone(),
        }))
    }

    fn name(&self) -> &'static str {
        "local"
    }

    fn is_infallible(&self) -> bool {
        true
    }
}
