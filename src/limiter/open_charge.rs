//! A charge that is settled when its request has ended.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::fallback::{Fallback, Receipts};
use super::guarded_store::{GuardedStore, LaneOpening};
use crate::quota::Quota;
use crate::store::{OwnedCheck, Receipt};

/// How long a permit's reservations are renewed. After that they lapse.
const MAX_LIFE: Duration = Duration::from_secs(86_400);

/// A charge that has permits.
pub(super) struct OpenCharge {
    store: Arc<GuardedStore>,
    fallback: Arc<Fallback>,
    check: OwnedCheck,
    held: Mutex<Held>,
    /// The fallback's receipt, if the store can fail, and for how many replicas the fallback has charged.
    /// The fallback reserves each cost that the store reserves, so that an outage begins with the open charges
    /// of this process.
    fallback_receipt: Option<(Receipt, u32)>,
    /// How long reservations last without renewal, if the check has any in the store.
    ttl: Option<Duration>,
    /// Where settlements of permits run that are dropped outside of a runtime.
    runtime: Option<Handle>,
    opened_at: Instant,
}

/// Where a charge was made, and so where it is settled.
enum Held {
    Store(StoreCharge),
    Fallback,
    /// A renewal is on its way. If the charge is closed meanwhile, `closed` is its settlement.
    Renewing {
        closed: Option<Settled>,
    },
    Closed,
}

pub(super) struct StoreCharge {
    pub(super) receipt: Receipt,
    /// The lane's state when the check was sent, if the store can fail.
    pub(super) lane: Option<LaneOpening>,
    renewed_at: Instant,
}

/// The reported cost of a charge, or `None` to settle it as it was charged.
#[derive(Clone, Copy)]
struct Settled(Option<u32>);

impl OpenCharge {
    /// Keeps a charge open. Returns `None` if there is nothing to settle: the check was not charged, or its
    /// charge is final.
    pub(super) fn new(
        store: &Arc<GuardedStore>,
        fallback: &Arc<Fallback>,
        check: OwnedCheck,
        receipts: Receipts,
        lane: Option<LaneOpening>,
    ) -> Option<Self> {
        if let Some(receipt) = &receipts.store {
            receipt.keep();
        }
        if !check.borrow().quotas().any(Quota::is_settleable) {
            return None;
        }
        let now = Instant::now();
        let held = match receipts.store {
            Some(receipt) => Held::Store(StoreCharge {
                receipt,
                lane,
                renewed_at: now,
            }),
            None if receipts.fallback.is_some() => Held::Fallback,
            None => return None,
        };
        let ttls = check
            .borrow()
            .quotas()
            .filter_map(|quota| quota.reserved_for());
        Some(Self {
            ttl: ttls.min().filter(|_| store.reservations_lapse()),
            store: store.clone(),
            fallback: fallback.clone(),
            check,
            held: Mutex::new(held),
            fallback_receipt: receipts.fallback,
            runtime: Handle::try_current().ok(),
            opened_at: now,
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the reservations lapse unless they are renewed.
    pub(super) fn lapses(&self) -> bool {
        self.ttl.is_some()
    }

    /// Ends the charge: releases what it reserves, and settles it at `used`, or at its cost.
    pub(super) fn close(&self, used: Option<u32>) {
        let held = {
            let mut held = self.held();
            match &mut *held {
                Held::Renewing { closed } => {
                    *closed = Some(Settled(used));
                    return;
                }
                held => mem::replace(held, Held::Closed),
            }
        };
        self.settle(held, used);
    }

    fn settle(&self, held: Held, used: Option<u32>) {
        let check = self.check.borrow();
        let used = used.unwrap_or(check.cost);
        // A store in the process must close every charge: it keeps a record of each in memory.
        let is_as_charged =
            used == check.cost && !check.limits.is_reserving() && !self.store.is_infallible;
        if let Some((receipt, replicas)) = &self.fallback_receipt {
            // A charge is settled only where it was made.
            let settled = matches!(held, Held::Fallback).then_some(used);
            let check = check.for_replicas(*replicas);
            self.fallback.close(&check, receipt, settled);
        }
        if let Held::Store(StoreCharge { receipt, lane, .. }) = held
            && !is_as_charged
            && !receipt.marks().is_empty()
            // After an outage, the store may not know of the charge.
            && lane.is_none_or(|lane| lane.is_current())
        {
            let runtime = self.runtime.as_ref();
            self.store.settle(&check, &receipt, used, runtime);
        }
    }

    /// Returns whether to renew the reservations now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let Some(ttl) = self.ttl.filter(|_| now < self.opened_at + MAX_LIFE) else {
            return false;
        };
        match &*self.held() {
            Held::Store(charge) => charge.renewed_at + ttl / 3 <= now,
            // The store takes over after the outage.
            Held::Fallback => true,
            Held::Renewing { .. } | Held::Closed => false,
        }
    }

    /// Renews the reservations in the store. After an outage, reserves them anew, once.
    pub(super) async fn renew(&self) {
        let check = self.check.borrow().time_left(self.store.deadline);
        let Ok(lane) = self.store.enter(&check) else {
            return;
        };
        let is_renewable =
            |charge: &StoreCharge| charge.lane.as_ref().is_none_or(LaneOpening::is_current);
        let before = {
            let mut held = self.held();
            if matches!(*held, Held::Renewing { .. } | Held::Closed) {
                return;
            }
            mem::replace(&mut *held, Held::Renewing { closed: None })
        };
        let receipt = match &before {
            Held::Store(charge) if is_renewable(charge) => charge.receipt.clone(),
            _ => Receipt::new([]),
        };
        let mut renewal = Renewal {
            charge: self,
            renewed: Receipt::new([]),
            lane: lane.as_ref().map(|lane| lane.opening()),
        };
        if let Ok(renewed) = self.store.renew(&check, &receipt, lane).await {
            renewal.renewed = renewed;
        }
    }

    /// Ends a renewal, and settles the charge if it was closed meanwhile.
    fn renewed(&self, charge: StoreCharge) {
        let Settled(used) = {
            let mut held = self.held();
            match *held {
                Held::Renewing { closed: Some(used) } => {
                    *held = Held::Closed;
                    used
                }
                _ => {
                    *held = Held::Store(charge);
                    return;
                }
            }
        };
        self.settle(Held::Store(charge), used);
    }
}

/// A renewal in flight. Dropping it ends the renewal, also if its runtime shuts down: the charge could not be
/// closed otherwise.
struct Renewal<'a> {
    charge: &'a OpenCharge,
    /// Without marks while the outcome is unknown: the next renewal then reserves the cost anew.
    renewed: Receipt,
    lane: Option<LaneOpening>,
}

impl Drop for Renewal<'_> {
    fn drop(&mut self) {
        self.charge.renewed(StoreCharge {
            receipt: mem::replace(&mut self.renewed, Receipt::new([])),
            lane: self.lane.take(),
            renewed_at: Instant::now(),
        });
    }
}
