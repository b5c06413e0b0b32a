use crate::decision::Decision;
use crate::quota::State;
use crate::store::{Carried, Check, PerPolicy, Table, Verdict};

/// What to do with a request when the store does not decide in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureStrategy {
    /// Keep serving, limited in the process: the same limits, counted on from what the last shared
    /// decision left.
    #[default]
    Open,
    /// Keep serving, without a limit.
    OpenUnlimited,
    /// Refuse.
    Closed,
}

/// Counts in the process, for while the store is away.
///
/// It holds what the store's last decision left of each identity, moved to this process's clock,
/// and marks what it charged itself, or denied by: the store may come back without its memory.
/// What is marked is carried to the store with the identity's next check, which joins the two: the
/// more indebted counts.
#[derive(Debug)]
pub(super) struct Fallback {
    table: Table,
    /// How many times over an admission is charged, since so many replicas do the same.
    share: u32,
}

impl Fallback {
    pub(super) fn new(capacity: usize, share: u32) -> Self {
        let table = Table::with_capacity(capacity, "fallback");
        Self { table, share }
    }

    /// Decides a check.
    pub(super) fn check<'a>(&self, check: &Check<'a>) -> Decision<'a> {
        let check = check.shared_by(self.share);
        let verdict = self.table.row(&check).decide(true);
        // The table's verdicts follow from their states, so there is always a decision.
        Decision::replay(&check, &verdict)
            .unwrap_or_else(|_| Decision::unlimited(&check))
            .degraded()
    }

    /// What was charged here and is not yet in the store.
    pub(super) fn carried(&self, check: &Check<'_>) -> Option<Carried> {
        let row = self.table.row(check);
        if !row.marks().any(|marked| marked) {
            return None;
        }
        let marked = row.states().zip(row.marks());
        let states = marked.map(|(state, marked)| if marked { state } else { State::default() });
        Some(Carried {
            states: states.collect(),
            now: row.now(),
        })
    }

    /// Takes note of what the store decided, after joining what it was carried.
    ///
    /// Answers may come in another order than they were decided in, so an older one does not take
    /// back what a newer one told.
    pub(super) fn settle(&self, check: &Check<'_>, carried: Option<&Carried>, verdict: &Verdict) {
        let left = check.decide(verdict.now, verdict.states.iter().copied());
        let mut row = self.table.row(check);
        let now = row.now();
        let held: PerPolicy<(State, bool)> = row.states().zip(row.marks()).collect();
        for (policy, (quota, (held, marked))) in check.quotas().zip(held).enumerate() {
            let state = quota.rebase(left.states()[policy], verdict.now, now);
            // What was charged here while the check was under way is still to be carried.
            let known = carried.is_some_and(|carried| carried.states[policy] == held);
            row.set(policy, quota.join(state, held, now), marked && !known);
        }
        row.estimate();
    }

    pub(super) fn refund(&self, check: &Check<'_>) {
        let check = check.shared_by(self.share);
        self.table.row(&check).refund();
    }

    pub(super) fn reset(&self, check: &Check<'_>) {
        self.table.row(check).clear();
    }
}
