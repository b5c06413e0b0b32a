//! Turns a batch of queued checks into calls of the script.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::check_queue::{BatchItem, PendingChecks};
use super::pending::PendingCheck;
use super::script::{Group, Keys, ScriptInput};
use crate::store::Check;

/// Adds the key of each policy's state, unless it is there already. The guide documents the format.
pub(super) fn add_keys(keys: &mut Keys, prefix: &str, check: &Check<'_>) {
    let scope = check.scope;
    for policy in check.limits.policies() {
        let identity = check.identity_of(policy);
        let hash = identity.keyed_hash() ^ scope.fingerprint() ^ policy.fingerprint();
        keys.add(hash, |key| {
            key.push_str(prefix);
            key.push(':');
            identity.write_key(key);
            key.push(':');
            key.push_str(scope.as_str());
            key.push(':');
            key.push_str(policy.key());
        });
    }
}

/// A call of the script, and its checks: all of one hash slot.
pub(super) struct Call {
    pub(super) input: ScriptInput,
    pub(super) asking: bool,
    /// The checks of each batch item, in the order of `input`.
    pub(super) items: Vec<PendingChecks>,
}

/// Splits a batch into calls, to be sent at `now`: one for each hash slot, or one for each item if
/// `one_identity_per_call`. An item that must be sent alone has its own call.
pub(super) fn calls(
    batch: Vec<BatchItem>,
    one_identity_per_call: bool,
    prefix: &str,
    now: Instant,
) -> Vec<Call> {
    // Items with equal keys share a call.
    let call_key = |item: &BatchItem| {
        let first = &item.checks[0];
        let is_alone = one_identity_per_call || first.alone;
        (!is_alone).then_some((first.slot, first.asking))
    };
    let mut calls: Vec<Vec<BatchItem>> = Vec::new();
    for item in batch {
        let key = call_key(&item);
        let call = key.and_then(|_| calls.iter_mut().find(|call| call_key(&call[0]) == key));
        match call {
            Some(call) => call.push(item),
            None => calls.push(vec![item]),
        }
    }
    let calls = calls.into_iter();
    let calls = calls.map(|items| Call::new(items, prefix, now));
    calls.collect()
}

impl Call {
    fn new(items: Vec<BatchItem>, prefix: &str, now: Instant) -> Self {
        let asking = items[0].checks[0].asking;
        let mut call = Self {
            input: ScriptInput {
                keys: Keys::with_capacity(items.len()),
                groups: Vec::with_capacity(1),
            },
            asking,
            items: Vec::with_capacity(items.len()),
        };
        let mut groups: Vec<(Group, Vec<PendingChecks>)> = Vec::new();
        for BatchItem { checks, .. } in items {
            let group = group(&checks, valid_for(&checks, now));
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, items)) => items.push(checks),
                None => groups.push((group, vec![checks])),
            }
        }
        for (group, items) in groups {
            call.input.groups.push((group, items.len()));
            for checks in items {
                let check = checks[0].check.borrow();
                add_keys(&mut call.input.keys, prefix, &check);
                call.items.push(checks);
            }
        }
        call
    }

    /// The number of checks and resets in the call.
    pub(super) fn checks(&self) -> usize {
        self.items.iter().map(SmallVec::len).sum()
    }

    pub(super) fn into_checks(self) -> impl Iterator<Item = PendingCheck> {
        self.items.into_iter().flatten()
    }
}

/// Returns the latest deadline of the checks in these calls. Settlements, which have long deadlines, count
/// only where no check waits for the same reply.
pub(super) fn last_deadline(calls: &[Call]) -> Option<Instant> {
    let deadline = |is_settlement: bool| {
        let checks = calls.iter().flat_map(|call| &call.items).flatten();
        let checks = checks.filter(|check| check.settlement.is_some() == is_settlement);
        checks.map(|check| check.deadline).max()
    };
    deadline(false).or_else(|| deadline(true))
}

/// The microseconds from `now` to the earliest deadline.
fn valid_for(checks: &[PendingCheck], now: Instant) -> u64 {
    let deadline = checks.iter().map(|check| check.deadline).min();
    let valid_for = deadline.unwrap_or(now).saturating_duration_since(now);
    round_down(valid_for.as_micros() as u64)
}

/// Rounds down by at most a sixteenth, so that checks that arrived together share a group.
fn round_down(valid_for: u64) -> u64 {
    let bits = (valid_for / 16).checked_ilog2().unwrap_or(0);
    valid_for >> bits << bits
}

/// The group of one batch item. States that its checks carry are joined.
fn group(checks: &[PendingCheck], valid_for: u64) -> Group {
    let first = checks[0].check.borrow();

    let borrowed = checks.iter().map(|pending| pending.check.borrow());
    let mut with_fallback =
        borrowed.filter_map(|check| Some((check.limits, check.fallback_states()?)));
    let fallback = with_fallback.next().map(|(limits, first)| {
        let mut fallback = first.clone();
        with_fallback.for_each(|(_, other)| fallback.join(limits, other));
        fallback
    });
    let policies = first.limits.policies().iter().enumerate();
    let policies = policies.map(|(index, policy)| {
        let fallback = fallback.as_ref();
        let joined = fallback.and_then(|fallback| fallback.relative(first.limits, index));
        (*policy.quota(), joined)
    });
    let settlement = checks[0].settlement.as_deref();
    let marks = settlement.map(|settlement| {
        let quotas = first.quotas().zip(settlement.receipt.marks());
        quotas
            .map(|(quota, mark)| mark[usize::from(!quota.is_reserving())])
            .collect()
    });
    Group {
        operation: checks[0].operation,
        cost: first.cost,
        max_wait: first.queue_wait(),
        times: settlement.map_or(checks.len(), |settlement| settlement.used as usize),
        marks: marks.unwrap_or_default(),
        valid_for,
        policies: policies.collect(),
    }
}
