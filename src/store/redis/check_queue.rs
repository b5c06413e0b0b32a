//! Queued checks. Equal checks coalesce into one batch item, and no identity can fill the queue alone.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::pending::PendingCheck;
use crate::store::StoreErrorKind;
use crate::store::prehashed::PrehashedHasher;

/// An identity may have one part in this many of the queue's items.
const IDENTITY_SHARE: usize = 8;

/// The number of queued items of its identity that a new check is compared with, newest first.
/// Usually the newest is equal.
const MAX_COMPARISONS: usize = 8;

/// Equal checks.
pub(super) type PendingChecks = SmallVec<[PendingCheck; 1]>;

/// Equal checks, which the script decides together; or one reset.
pub(super) struct BatchItem {
    /// Never empty.
    pub(super) checks: PendingChecks,
    /// The number of the identity's previous item, which may have left the queue.
    previous: Option<u64>,
}

impl BatchItem {
    pub(super) fn keys(&self) -> usize {
        self.checks[0].check.borrow().limits.policies().len()
    }

    /// Returns whether the item may be sent over the connection of this number. A charge is settled only
    /// where it was made: after a failover, the new server may not know of it.
    pub(super) fn is_for(&self, connection: u64) -> bool {
        let settlement = self.checks[0].settlement.as_deref();
        let source = settlement.and_then(|settlement| settlement.receipt.source.as_ref());
        source.is_none_or(|source| source.connection == connection)
    }
}

/// A queue of batch items, oldest first.
#[derive(Default)]
pub(super) struct CheckQueue {
    items: VecDeque<BatchItem>,
    /// The number of the first item. Items are numbered in order of arrival.
    first_number: u64,
    /// The number of checks in all items.
    checks: usize,
    identities: HashMap<u64, IdentityItems, BuildHasherDefault<PrehashedHasher>>,
}

/// The queued items of one identity.
struct IdentityItems {
    /// The number of the newest.
    newest: u64,
    count: usize,
}

impl CheckQueue {
    /// The number of batch items.
    pub(super) fn items(&self) -> usize {
        self.items.len()
    }

    /// The number of checks in all batch items.
    pub(super) fn checks(&self) -> usize {
        self.checks
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn first(&self) -> Option<&BatchItem> {
        self.items.front()
    }

    pub(super) fn has_probe(&self) -> bool {
        let mut checks = self.items.iter().flat_map(|item| &item.checks);
        checks.any(|check| check.is_probe)
    }

    /// Adds a check, to an item of equal checks if there is one. Returns the check if the queue has
    /// `max_items`, or if the check's identity has its share of them. A settlement or renewal is always added:
    /// each permit has one at most.
    pub(super) fn push(
        &mut self,
        check: PendingCheck,
        max_items: usize,
    ) -> Result<(), PendingCheck> {
        let identity = self.identities.get(&check.fingerprint.identity);
        let (newest, count) = match identity {
            Some(identity) => (Some(identity.newest), identity.count),
            None => (None, 0),
        };
        let mut number = newest;
        for _ in 0..MAX_COMPARISONS {
            let index = number.and_then(|number| number.checked_sub(self.first_number));
            let Some(index) = index else {
                break;
            };
            let item = &mut self.items[index as usize];
            if item.checks[0].can_coalesce(&check) {
                item.checks.push(check);
                self.checks += 1;
                return Ok(());
            }
            number = item.previous;
        }
        let is_full = self.items() >= max_items || count >= max_items.div_ceil(IDENTITY_SHARE);
        if is_full && !check.is_probe && check.settlement.is_none() {
            return Err(check);
        }
        let identity = IdentityItems {
            newest: self.first_number + self.items() as u64,
            count: count + 1,
        };
        self.identities.insert(check.fingerprint.identity, identity);
        self.items.push_back(BatchItem {
            checks: SmallVec::from_buf([check]),
            previous: newest,
        });
        self.checks += 1;
        Ok(())
    }

    /// Takes a batch with at most `max_keys` keys, but at least one item. Drops cancelled checks, and
    /// fails checks that would time out before the end of a round trip of this duration.
    pub(super) fn take_batch(&mut self, max_keys: usize, round_trip: Duration) -> Vec<BatchItem> {
        let now = Instant::now();
        let reply_at = now + round_trip;
        let mut batch: Vec<BatchItem> = Vec::with_capacity(self.items().min(max_keys));
        let mut keys = 0;
        while let Some(first) = self.first() {
            keys += first.keys();
            if keys > max_keys && !batch.is_empty() {
                break;
            }
            let Some(mut item) = self.pop() else {
                break;
            };
            let is_late =
                |check: &PendingCheck| check.is_cancelled() || check.would_time_out(now, reply_at);
            if item.checks.iter().any(is_late) {
                let (late, in_time) = item.checks.into_iter().partition(is_late);
                item.checks = in_time;
                let late: PendingChecks = late;
                for check in late {
                    check.answer(Err(StoreErrorKind::TimedOut.into()));
                }
            }
            if !item.checks.is_empty() {
                batch.push(item);
            }
        }
        batch
    }

    fn pop(&mut self) -> Option<BatchItem> {
        let item = self.items.pop_front()?;
        self.first_number += 1;
        self.checks -= item.checks.len();
        let identity = item.checks[0].fingerprint.identity;
        if let Some(queued) = self.identities.get_mut(&identity) {
            queued.count -= 1;
            if queued.count == 0 {
                self.identities.remove(&identity);
            }
        }
        Some(item)
    }

    pub(super) fn into_checks(self) -> impl Iterator<Item = PendingCheck> {
        self.items.into_iter().flat_map(|item| item.checks)
    }
}
