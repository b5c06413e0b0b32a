use std::sync::OnceLock;

use crate::clock::{Clock, SystemClock};
use crate::decision::Decision;
use crate::store::{Carried, Check, PerPolicy, Table, Verdict};

/// What to do with a request when the store does not decide in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
/// and marks what it charged itself. What is marked is carried to the store with the identity's
/// next check, which joins the two: the more indebted counts.
#[derive(Debug)]
pub(super) struct Fallback {
    capacity: usize,
    /// How many times over an admission is charged, since so many replicas do the same.
    share: u32,
    /// Not made for a store that never fails.
    counts: OnceLock<Counts>,
}

struct Counts {
    table: Table,
    clock: SystemClock,
}

impl Fallback {
    pub(super) fn new(capacity: usize, share: u32) -> Self {
        Self {
            capacity,
            share,
            counts: OnceLock::new(),
        }
    }

    /// Makes room for the counts, so that no request has to.
    pub(super) fn prepare(&self) {
        self.counts();
    }

    fn counts(&self) -> &Counts {
        self.counts.get_or_init(|| Counts {
            table: Table::with_capacity(self.capacity, "fallback"),
            clock: SystemClock::new(),
        })
    }

    /// Decides a check.
    pub(super) fn check<'a>(&self, check: &Check<'a>) -> Decision<'a> {
        let Counts { table, clock } = self.counts();
        let check = check.shared_by(self.share);
        let verdict = table.check(&check, clock.now(), true);
        // The table's verdicts follow from their states, so there is always a decision.
        Decision::replay(&check, &verdict)
            .unwrap_or_else(|_| Decision::unlimited(&check))
            .degraded()
    }

    /// What was charged here and is not yet in the store.
    pub(super) fn carried(&self, check: &Check<'_>) -> Option<Carried> {
        let Counts { table, clock } = self.counts.get()?;
        let now = clock.now();
        let row = table.row(check, now);
        let states = row.states().zip(row.marks());
        let states: PerPolicy<_> = states
            .map(|(state, marked)| if marked { state } else { Default::default() })
            .collect();
        row.marks()
            .any(|marked| marked)
            .then_some(Carried { states, now })
    }

    /// Takes note of what the store decided, after joining what it was carried.
    pub(super) fn settle(&self, check: &Check<'_>, carried: Option<&Carried>, verdict: &Verdict) {
        let Counts { table, clock } = self.counts();
        let left = check.decide(verdict.now, verdict.states.iter().copied());
        let now = clock.now();
        let mut row = table.row(check, now);
        let held: PerPolicy<_> = row.states().zip(row.marks()).collect();
        for (policy, quota) in check.quotas().enumerate() {
            let state = quota.rebase(left.states()[policy], verdict.now, now);
            let (held, marked) = held[policy];
            let known = carried.is_some_and(|carried| carried.states[policy] == held);
            // What was charged here while the check was under way is still to be carried.
            let ahead = marked && !known;
            let state = if ahead {
                quota.join(state, held, now)
            } else {
                state
            };
            row.set(policy, state, ahead);
        }
    }

    pub(super) fn refund(&self, check: &Check<'_>) {
        if let Some(Counts { table, clock }) = self.counts.get() {
            table.refund(&check.shared_by(self.share), clock.now());
        }
    }

    pub(super) fn reset(&self, check: &Check<'_>) {
        if let Some(Counts { table, clock }) = self.counts.get() {
            table.row(check, clock.now()).clear();
        }
    }
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counts")
            .field("capacity", &self.table.capacity())
            .finish_non_exhaustive()
    }
}
