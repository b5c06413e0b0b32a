//! How queued checks become calls of the script, and how answers reach their waiters.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::denials::Denials;
use super::pace::Pace;
use super::script::{Charged, Flaw, Group, Keys, Operation, Question};
use super::waiter::Waiter;
use super::waiting::{Entry, Waiters};
use crate::store::{Check, StoreError, StoreErrorKind, Verdict};

/// Adds the names of a check's counts, as operators see them.
pub(super) fn add_keys(keys: &mut Keys, prefix: &str, check: &Check<'_>) {
    let scope = check.scope.as_str();
    for policy in check.limits.policies() {
        keys.add(|key| {
            key.push_str(prefix);
            key.push_str(":{");
            check.identity.write_to(key);
            key.push_str("}:");
            key.push_str(scope);
            key.push(':');
            key.push_str(policy.key());
        });
    }
}

/// Waiters that share a call: all of one slot.
pub(super) struct Call {
    pub(super) question: Question,
    pub(super) asking: bool,
    /// Those who asked for each entry.
    waiters: Vec<Waiters>,
}

/// Makes calls of entries, to be sent at `now`: one for each slot, or for each entry if `separate`.
/// An entry that must be alone has a call of its own, and so has a further entry of an identity, since
/// a call has each key once.
pub(super) fn calls(entries: Vec<Entry>, separate: bool, prefix: &str, now: Instant) -> Vec<Call> {
    // Entries share a call if this is equal.
    let shared = |entry: &Entry| {
        let first = &entry.waiters[0];
        let is_alone = separate || first.alone;
        (!is_alone).then_some((first.slot, first.asking, entry.earlier))
    };
    let mut calls: Vec<Vec<Entry>> = Vec::new();
    for entry in entries {
        let common = shared(&entry);
        let fitting = common.and_then(|_| calls.iter_mut().find(|call| shared(&call[0]) == common));
        match fitting {
            Some(call) => call.push(entry),
            None => calls.push(vec![entry]),
        }
    }
    let calls = calls.into_iter();
    let calls = calls.map(|entries| Call::new(entries, prefix, now));
    calls.collect()
}

impl Call {
    fn new(entries: Vec<Entry>, prefix: &str, now: Instant) -> Self {
        let asking = entries[0].waiters[0].asking;
        let mut call = Self {
            question: Question {
                keys: Keys::with_capacity(entries.len()),
                groups: Vec::with_capacity(1),
            },
            asking,
            waiters: Vec::with_capacity(entries.len()),
        };
        let mut groups: Vec<(Group, Vec<Waiters>)> = Vec::new();
        for Entry { waiters, .. } in entries {
            let good_for = good_for(&waiters, now);
            let alike = |(group, entries): &&mut (Group, Vec<Waiters>)| {
                is_alike(&waiters, good_for, group, &entries[0])
            };
            if let Some((_, entries)) = groups.iter_mut().find(alike) {
                entries.push(waiters);
                continue;
            }
            let group = group(&waiters, good_for);
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, entries)) => entries.push(waiters),
                None => groups.push((group, vec![waiters])),
            }
        }
        for (group, entries) in groups {
            call.question.groups.push((group, entries.len()));
            for waiters in entries {
                let check = waiters[0].check.borrow();
                add_keys(&mut call.question.keys, prefix, &check);
                call.waiters.push(waiters);
            }
        }
        call
    }

    /// The number of different checks and resets in the call.
    pub(super) fn entries(&self) -> usize {
        self.waiters.len()
    }

    /// The number of checks and resets in the call.
    pub(super) fn len(&self) -> usize {
        self.waiters.iter().map(SmallVec::len).sum()
    }

    /// When the last of its waiters will have gone.
    pub(super) fn last_gone(&self) -> Option<Instant> {
        self.waiters
            .iter()
            .flatten()
            .map(|waiter| waiter.until)
            .max()
    }

    pub(super) fn into_waiters(self) -> impl Iterator<Item = Waiter> {
        self.waiters.into_iter().flatten()
    }

    /// Hands the script's answer, to a call made at `asked`, to those who are still there.
    pub(super) async fn answer(
        self,
        now: u64,
        entries: Vec<Result<Charged, Flaw>>,
        asked: Instant,
        denials: &Denials,
        pace: &mut Pace,
    ) -> Undone {
        let mut undone = Undone::default();
        for (waiters, entry) in self.waiters.into_iter().zip(entries) {
            match entry {
                Ok(charged) => hand_out(waiters, now, charged, asked, denials, pace).await,
                Err(Flaw::Refused) => undone.refused.extend(waiters),
                Err(Flaw::TooLate) => undone.late.extend(waiters),
                Err(Flaw::WrongType) => {
                    fail(
                        waiters,
                        &unusable("a key holds something else than a count: delete it"),
                    );
                }
                Err(Flaw::Unreadable) => {
                    fail(waiters, &unusable("a key's value is no count: delete it"));
                }
            }
        }
        undone
    }
}

/// How long after `now` an entry may still be done.
fn good_for(waiters: &[Waiter], now: Instant) -> u64 {
    let until = waiters.iter().map(|waiter| waiter.until).min();
    let good_for = until.unwrap_or(now).saturating_duration_since(now);
    rounded(good_for.as_micros() as u64)
}

/// Whether waiters clearly ask for what this group's do: the common case, quickly told.
fn is_alike(waiters: &[Waiter], good_for: u64, group: &Group, known: &[Waiter]) -> bool {
    let (check, same) = (waiters[0].check.borrow(), known[0].check.borrow());
    let mut both = waiters.iter().chain(known);
    (waiters[0].operation, check.cost, waiters.len(), good_for)
        == (group.operation, group.cost, group.times, group.good_for)
        && check.limits.ptr_eq(same.limits)
        && both.all(|waiter| waiter.check.borrow().fallback_states().is_none())
}

/// What waiters ask for together: how often, for how long, and with all that was counted elsewhere.
fn group(waiters: &[Waiter], good_for: u64) -> Group {
    let first = waiters[0].check.borrow();

    let checks = waiters.iter().map(|waiter| waiter.check.borrow());
    let mut carrying = checks.filter_map(|check| Some((check.limits, check.fallback_states()?)));
    let carried = carrying.next().map(|(limits, first)| {
        let mut carried = first.clone();
        carrying.for_each(|(_, other)| carried.join(limits, other));
        carried
    });
    let policies = first.limits.policies().iter().enumerate();
    let counts = policies.map(|(index, policy)| {
        let carried = carried.as_ref();
        let joined = carried.and_then(|carried| carried.relative(first.limits, index));
        (*policy.quota(), joined)
    });
    Group {
        operation: waiters[0].operation,
        cost: first.cost,
        times: waiters.len(),
        good_for,
        counts: counts.collect(),
    }
}

/// Takes off a sixteenth at most, so that what came together is alike.
fn rounded(good_for: u64) -> u64 {
    let bits = (good_for / 16).checked_ilog2().unwrap_or(0);
    good_for >> bits << bits
}

/// Those whose entries were not done.
#[derive(Default)]
pub(super) struct Undone {
    pub(super) refused: Waiters,
    pub(super) late: Waiters,
}

/// Tells waiters why nothing was decided.
pub(super) fn fail(waiters: impl IntoIterator<Item = Waiter>, error: &StoreError) {
    for waiter in waiters {
        waiter.answer(Err(error.clone()));
    }
}

fn unusable(reason: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unusable, reason)
}

/// Tells the waiters of one entry, of which the first `charged.times` that are still there pass.
async fn hand_out(
    waiters: Waiters,
    now: u64,
    charged: Charged,
    asked: Instant,
    denials: &Denials,
    pace: &mut Pace,
) {
    let (mut states, mut places) = (charged.before, charged.times);
    let (alone, mut remembered) = (waiters.len() == 1, false);
    for waiter in waiters {
        pace.step().await;
        if waiter.operation != Operation::Check {
            denials.forget(&waiter.subject);
            waiter.answer(Ok(Verdict::new(true, now, states.iter().copied())));
            continue;
        }
        if alone && places == 1 {
            // What follows from the states is found out where it is used.
            waiter.answer(Ok(Verdict::new(true, now, states)));
            return;
        }
        if waiter.is_gone() {
            continue;
        }
        let check = waiter.check.borrow();
        let next = check.charge(now, &states);
        if next.is_some() != (places > 0) {
            let error = "the script decided otherwise than the library would";
            waiter.answer(Err(unusable(error)));
            continue;
        }
        let verdict = Verdict::new(next.is_some(), now, states.iter().copied());
        if next.is_none() && !remembered {
            denials.remember(&waiter.subject, &check, &verdict, asked);
            remembered = true;
        }
        // If nobody takes it after all, the next waiter does.
        if waiter.answer(Ok(verdict))
            && let Some(next) = next
        {
            places -= 1;
            states = next;
        }
    }
}
