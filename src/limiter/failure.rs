use super::metrics::Operation;
use crate::decision::Decision;
use crate::quota::State;
use crate::store::{Carried, Check, PerPolicy, StoreError, Table, Verdict};

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

/// What the fallback holds of a check's counts.
pub(super) struct Held {
    /// Each policy's state, and whether it is marked.
    counts: PerPolicy<(State, bool)>,
    /// What was decided here and may not be in the store.
    pub(super) carried: Option<Box<Carried>>,
}

/// Counts in the process, for while the store is away.
///
/// It holds what the store's last decision left of each identity, moved to this process's clock,
/// and marks what it decided by itself. What is marked is carried to the store with the identity's
/// next check, which joins the two: the more indebted counts. So not even a store that comes back
/// empty lets go of those who were denied meanwhile.
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

    pub(super) fn share(&self) -> u32 {
        self.share
    }

    /// Decides a check, or looks what it would get. While the store is away, `away`, each replica
    /// charges its share.
    pub(super) fn check<'a>(
        &self,
        check: &Check<'a>,
        operation: Operation,
        away: bool,
    ) -> Decision<'a> {
        let check = match away {
            true => check.shared_by(self.share),
            false => *check,
        };
        let charged = operation.charged(&check);
        let verdict = self.table.row(&charged).decide(true);
        let decision = match operation {
            Operation::Peek => Decision::preview(&check, &verdict),
            // The table's verdicts follow from their states, so there is always a decision.
            _ => Decision::replay(&check, &verdict).unwrap_or_else(|_| Decision::unlimited(&check)),
        };
        decision.degraded()
    }

    /// What it holds of a check's counts, before the store is asked.
    pub(super) fn held(&self, check: &Check<'_>) -> Held {
        let (now, counts) = self.table.read(check);
        let marked =
            |(state, marked): &(State, bool)| if *marked { *state } else { State::default() };
        let is_marked = counts.iter().any(|(_, marked)| *marked);
        let carried = is_marked.then(|| {
            let states = counts.iter().map(marked).collect();
            Box::new(Carried { states, now })
        });
        Held { counts, carried }
    }

    /// The decision on what the store said, of which it takes note, after joining what it was carried.
    ///
    /// It replaces what was held when the store was asked. If that has changed meanwhile, by an
    /// answer that was decided earlier or later or by a decision here, the more indebted counts.
    pub(super) fn settle<'a>(
        &self,
        check: &Check<'a>,
        asked: &Held,
        verdict: &Verdict,
    ) -> Result<Decision<'a>, StoreError> {
        let mut left = check.decide(verdict.now, verdict.states.iter().copied());
        // As the store said it, so that it is told if that does not follow.
        left.verdict.allowed = verdict.allowed;
        left.verdict.states.truncate(verdict.states.len());
        let decision = Decision::replay(check, &left.verdict)?;
        let mut row = self.table.row(check);
        let now = row.now();
        for (policy, quota) in check.quotas().enumerate() {
            let (held, marked) = row.get(policy);
            let state = quota.rebase(left.states()[policy], verdict.now, now);
            let unchanged = asked.counts[policy].0 == held;
            // What was charged here while the check was under way is still to be carried.
            let carried = asked.carried.as_deref();
            let carried = carried.is_some_and(|carried| carried.states[policy] == held);
            let mark = marked && !carried;
            let state = match unchanged && !mark {
                true => state,
                false => quota.join(state, held, now),
            };
            row.set(policy, state, mark);
        }
        row.estimate();
        Ok(decision)
    }

    pub(super) fn reset(&self, check: &Check<'_>) {
        self.table.row(check).clear();
    }
}
