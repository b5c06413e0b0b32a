use super::decision::Decision;
use super::metrics::Operation;
use crate::quota::State;
use crate::store::{Check, FallbackStates, PerPolicy, Receipt, StoreError, Table, Verdict};

/// The table that decides in this process while the store is unavailable.
///
/// It holds the state that the store's last decision left for each identity, moved to this process's
/// clock. An entry that the fallback charged by itself is marked as unsynced. The identity's next check
/// brings such entries to the store, which joins them with its own state; the larger debt wins. So an
/// identity that was denied during an outage stays denied even if the store comes back empty.
#[derive(Debug)]
pub(super) struct Fallback {
    table: Table,
    /// The number of replicas that each admission is charged for.
    replicas: u32,
}

/// The receipts of a check that reserves.
#[derive(Default)]
pub(super) struct Receipts {
    pub(super) store: Option<Receipt>,
    /// The fallback's receipt, and for how many replicas the fallback has charged.
    pub(super) fallback: Option<(Receipt, u32)>,
}

/// The fallback's entries of a check when the store was asked.
pub(super) struct Snapshot {
    /// Each policy's state, and whether it is unsynced.
    entries: PerPolicy<(State, bool)>,
    /// The unsynced states, for the store to join, if there are any.
    pub(super) unsynced: Option<Box<FallbackStates>>,
}

impl Fallback {
    pub(super) fn new(capacity: usize, replicas: u32) -> Self {
        let table = Table::with_capacity(capacity, "fallback");
        Self { table, replicas }
    }

    /// Creates an empty fallback of this capacity with the same settings.
    pub(super) fn separate(&self, capacity: usize) -> Self {
        Self::new(capacity, self.replicas)
    }

    /// Decides or previews a check. If the store is unavailable to all replicas, an admission is charged
    /// for each of them.
    pub(super) fn check<'a>(
        &self,
        check: &Check<'a>,
        operation: Operation,
        is_outage: bool,
        receipts: Option<&mut Receipts>,
    ) -> Decision<'a> {
        let check = match is_outage {
            true => check.for_replicas(self.replicas),
            false => *check,
        };
        let charged = operation.charged(&check);
        let verdict = self.table.lock(&charged).decide(true);
        if let (Some(receipt), Some(receipts)) = (&verdict.receipt, receipts) {
            receipts.fallback = Some(((**receipt).clone(), check.replicas()));
        }
        let decision = match operation {
            Operation::Peek => Decision::preview(&check, &verdict),
            // The table's verdicts follow from their states, so there is always a decision.
            _ => Decision::replay(&check, &verdict).unwrap_or_else(|_| Decision::unlimited(&check)),
        };
        decision.degraded()
    }

    /// Reads a check's entries before the store is asked.
    pub(super) fn snapshot(&self, check: &Check<'_>) -> Snapshot {
        let (now, entries) = self.table.read(check);
        let unsynced = |(state, unsynced): &(State, bool)| {
            if *unsynced { *state } else { State::default() }
        };
        let has_unsynced = entries.iter().any(|(_, unsynced)| *unsynced);
        let unsynced = has_unsynced.then(|| {
            let states = entries.iter().map(unsynced).collect();
            Box::new(FallbackStates { states, now })
        });
        Snapshot { entries, unsynced }
    }

    /// Converts the store's verdict into a decision, and records the new states.
    ///
    /// The new state replaces the entry of the snapshot. If the entry has changed since then, by another
    /// answer or by a decision of the fallback, the two states are joined.
    pub(super) fn record<'a>(
        &self,
        check: &Check<'a>,
        before: &Snapshot,
        verdict: &Verdict,
        receipts: Option<&mut Receipts>,
    ) -> Result<Decision<'a>, StoreError> {
        let mut step = check.decide(verdict.now, verdict.states.iter().copied());
        // The store's own claims, so that `replay` finds a contradiction.
        step.verdict.allowed = verdict.allowed;
        step.verdict.states.truncate(verdict.states.len());
        let decision = Decision::replay(check, &step.verdict)?;
        let mut entries = self.table.lock(check);
        let now = entries.now();
        for (policy, quota) in check.quotas().enumerate() {
            let (current, is_unsynced) = entries.get(policy);
            let state = quota.without_reserved(step.states()[policy]);
            let state = quota.rebase(state, verdict.now, now);
            let is_unchanged = before.entries[policy].0 == current;
            // An entry that the fallback charged while the check was in flight stays unsynced.
            let sent = before.unsynced.as_deref();
            let was_sent = sent.is_some_and(|sent| sent.states[policy] == current);
            let stays_unsynced = is_unsynced && !was_sent;
            let state = match is_unchanged && !stays_unsynced {
                true => state,
                false => quota.join(state, current, now),
            };
            entries.set(policy, state, stays_unsynced);
        }
        entries.update_estimates();
        if let Some(receipts) = receipts.filter(|_| verdict.allowed) {
            receipts.fallback = Some((entries.open(step.states()), 1));
        }
        Ok(decision)
    }

    /// Closes a charge. Unless `used` is `None`, settles it at that cost.
    pub(super) fn close(&self, check: &Check<'_>, receipt: &Receipt, used: Option<u32>) {
        self.table.lock(check).close(receipt, used);
    }

    pub(super) fn reset(&self, check: &Check<'_>) {
        self.table.lock(check).clear();
    }
}
