use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::decision::Decision;
use super::open_charge::OpenCharge;

/// The right to go on, and the charge that it was given for, from
/// [`Limiter::acquire`](crate::Limiter::acquire).
///
/// Dropping the last permit of a charge ends it: slots of a
/// [concurrency limit](crate::Quota::concurrent) become free, and the charge is settled at the cost that was
/// reported, or stays as it was charged. So forgetting to report is safe.
///
/// ```
/// use tollgate::{Check, Denied, Identity, Limiter, Limits, LocalStore, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Denied> {
/// let limiter = Limiter::from(LocalStore::new());
/// let limits = Limits::from(Quota::concurrent(1));
/// let alice = Identity::user("alice");
/// let check = Check::new(&alice, &limits);
///
/// let permit = limiter.acquire(&check).await?;
/// assert!(limiter.acquire(&check).await.is_err());
/// drop(permit);
/// assert!(limiter.acquire(&check).await.is_ok());
/// # Ok(()) }
/// ```
#[must_use = "dropping a permit ends its charge"]
pub struct Permit(Charge);

/// A handle to the charge of a request, by which handlers and response bodies report the cost that was used.
///
/// Clones report to the same charge. A handle keeps no charge open: a [`Permit`] does. Reports to a charge
/// that has ended, or that cannot be settled (a plain token bucket's is final), have no effect.
#[derive(Clone)]
pub struct Charge(Arc<Shared>);

struct Shared {
    decision: Decision<'static>,
    cost: u32,
    /// The number of permits.
    permits: AtomicUsize,
    report: Mutex<Report>,
    /// Missing if there is nothing to settle: the check was denied, or its charge is final.
    open: Option<Arc<OpenCharge>>,
}

/// The reported cost.
#[derive(Default)]
struct Report {
    added: Option<u32>,
    settled: Option<u32>,
}

impl Permit {
    pub(super) fn new(
        decision: Decision<'static>,
        cost: u32,
        open: Option<Arc<OpenCharge>>,
    ) -> Self {
        Self(Charge(Arc::new(Shared {
            decision,
            cost,
            permits: AtomicUsize::new(1),
            report: Mutex::default(),
            open,
        })))
    }

    /// Returns the decision.
    pub fn decision(&self) -> &Decision<'static> {
        self.0.decision()
    }

    /// Returns a handle by which the used cost is reported.
    pub fn charge(&self) -> &Charge {
        &self.0
    }

    /// Settles the charge at the cost `used`, and drops the permit. See [`Charge::settle`].
    pub fn settle(self, used: u32) {
        self.0.settle(used);
    }

    /// Refunds the charge, and drops the permit. See [`Charge::refund`].
    pub fn refund(self) {
        self.0.refund();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shared = &self.0.0;
        if shared.permits.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(open) = &shared.open
        {
            let used = shared.report().used();
            open.close(used);
        }
    }
}

impl Charge {
    /// Creates the handle of a request that is not charged.
    pub(crate) fn none(decision: &Decision<'_>) -> Self {
        let decision = decision.clone().into_owned();
        Permit::new(decision, 0, None).charge().clone()
    }

    /// Returns the decision.
    pub fn decision(&self) -> &Decision<'static> {
        &self.0.decision
    }

    /// Returns the cost that was charged before the request.
    pub fn cost(&self) -> u32 {
        self.0.cost
    }

    /// Adds to the cost used so far. The charge is settled at the sum when it ends, unless
    /// [`settle`](Charge::settle) is called.
    pub fn add(&self, used: u32) {
        let mut report = self.0.report();
        report.added = Some(report.added.unwrap_or(0).saturating_add(used));
    }

    /// Sets the cost that was used, in place of any sum. The charge is settled at this cost when it ends. Returns
    /// whether that is so: false if an earlier call has set it, if the charge has ended, or if it cannot be
    /// settled.
    ///
    /// A cost above the charged one is charged in addition, even above the limit: up to one more limit.
    pub fn settle(&self, used: u32) -> bool {
        let mut report = self.0.report();
        // Under the lock, under which the last permit reads the report.
        if self.0.open.is_none() || self.0.permits.load(Ordering::Acquire) == 0 {
            return false;
        }
        let is_first = report.settled.is_none();
        report.settled.get_or_insert(used);
        is_first
    }

    /// Settles the charge at 0, as [`settle`](Charge::settle) does.
    pub fn refund(&self) -> bool {
        self.settle(0)
    }

    /// Returns the cost that was reported so far, or else the cost that was charged.
    pub fn used(&self) -> u32 {
        self.0.report().used().unwrap_or(self.0.cost)
    }

    /// Returns the decision with the numbers that remain after the settlement, as reported so far.
    pub(crate) fn settled_decision(&self) -> Decision<'static> {
        let decision = self.0.decision.clone();
        match &self.0.open {
            Some(_) => decision.settled(self.0.cost, self.used()),
            None => decision,
        }
    }

    /// Keeps the charge and its slots open until the returned permit is dropped: for an upgraded connection
    /// or a spawned task. If the charge has ended already, the permit keeps nothing.
    pub fn hold(&self) -> Permit {
        let more = |permits| (permits > 0).then_some(permits + 1);
        let permits = &self.0.permits;
        match permits.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Permit(self.clone()),
            Err(_) => Permit::new(self.decision().clone(), self.cost(), None),
        }
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    fn used(&self) -> Option<u32> {
        self.settled.or(self.added)
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.0).finish()
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("cost", &self.0.cost)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}
