//! Checks that wait for a round trip, and how many of them become one call.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::denials::Denials;
use super::script::{Charged, Flaw, Group, Operation, Question};
use super::subject::Subject;
use crate::store::verdict::PerPolicy;
use crate::store::{Check, OwnedCheck, StoreError, StoreErrorKind, Verdict};

/// A check, a refund or a reset that waits for its answer.
pub(super) struct Waiter {
    pub(super) operation: Operation,
    pub(super) check: OwnedCheck,
    pub(super) subject: Subject,
    /// How long it waits in all, and until when.
    pub(super) patience: Duration,
    pub(super) until: Instant,
    /// Whether to try even a server that has just failed.
    pub(super) probes: bool,
    /// How often the server said that it did not run it.
    pub(super) refusals: u32,
    /// Whether a node of the cluster is asked for keys that it is about to own.
    pub(super) asking: bool,
    /// Which slot of the cluster the keys are in; 0 where there is no cluster.
    pub(super) slot: u16,
    pub(super) sender: oneshot::Sender<Result<Verdict, StoreError>>,
}

/// Those who ask for the same, and share an entry.
pub(super) struct Sharing {
    waiters: Vec<Waiter>,
    /// How many entries of the same identity come before.
    earlier: usize,
}

impl Sharing {
    /// What has to be the same for entries to be in one call.
    fn call(&self) -> (u16, bool, usize) {
        let first = &self.waiters[0];
        (first.slot, first.asking, self.earlier)
    }
}

impl Waiter {
    /// Answers. Says whether anybody was still there.
    pub(super) fn answer(self, answer: Result<Verdict, StoreError>) -> bool {
        self.sender.send(answer).is_ok()
    }

    /// Whether an answer that takes so long would come too late. One that has just come is asked
    /// for all the same: the server may be faster than it was.
    fn is_hopeless(&self, now: Instant, round_trip: Duration) -> bool {
        let left = self.until.saturating_duration_since(now);
        left.is_zero() || (left < round_trip && left < self.patience / 2)
    }

    /// Whether the two can share an entry: they are alike, and so is their patience.
    fn equals(&self, other: &Self) -> bool {
        let whole = |waiter: &Self| {
            let (check, cost) = (waiter.subject.check, waiter.check.borrow().cost);
            (check, cost, waiter.patience, waiter.asking)
        };
        let checks = [self.operation, other.operation] == [Operation::Check; 2];
        checks && whole(self) == whole(other)
    }
}

/// The names of a check's counts, as operators see them.
pub(super) fn keys(prefix: &str, check: &Check<'_>) -> impl Iterator<Item = String> {
    let (identity, scope) = (check.identity, check.scope.as_str());
    check.limits.policies().iter().map(move |policy| {
        let mut key = String::with_capacity(128);
        key.extend([prefix, ":{"]);
        write!(key, "{identity}").expect("a String takes everything");
        key.extend(["}:", scope, ":", policy.key()]);
        key
    })
}

/// Waiters that share a call: all of one slot.
pub(super) struct Call {
    pub(super) question: Question,
    pub(super) asking: bool,
    /// Those who asked for each entry.
    waiters: Vec<Vec<Waiter>>,
}

/// Takes waiters off the queue for one round trip, with at most `most_keys` keys in all, but never
/// fewer than one waiter's. Those that have gone, or would before it is over, are dropped.
pub(super) fn take(
    queue: &mut VecDeque<Waiter>,
    most_keys: usize,
    round_trip: Duration,
) -> Vec<Sharing> {
    let now = Instant::now();
    let mut taken: Vec<Sharing> = Vec::new();
    // Which of them are an identity's.
    let mut places: HashMap<u64, PerPolicy<usize>> = HashMap::new();
    let mut keys = 0;
    while let Some(waiter) = queue.pop_front() {
        if waiter.sender.is_closed() || waiter.is_hopeless(now, round_trip) {
            waiter.answer(Err(StoreErrorKind::TimedOut.into()));
            continue;
        }
        let places = places.entry(waiter.subject.identity).or_default();
        let mut earlier = places.iter();
        if let Some(equal) = earlier.find(|place| taken[**place].waiters[0].equals(&waiter)) {
            taken[*equal].waiters.push(waiter);
            continue;
        }
        keys += waiter.check.borrow().limits.policies().len();
        if keys > most_keys && !taken.is_empty() {
            queue.push_front(waiter);
            break;
        }
        let earlier = places.len();
        places.push(taken.len());
        taken.push(Sharing {
            earlier,
            waiters: vec![waiter],
        });
    }
    taken
}

/// Makes calls of waiters, to be sent at `now`: one for each slot, and further ones where an
/// identity would be in it twice, since a call has each key once.
pub(super) fn calls(entries: Vec<Sharing>, prefix: &str, now: Instant) -> Vec<Call> {
    let mut calls: Vec<Vec<Sharing>> = Vec::new();
    for entry in entries {
        let fits = |call: &&mut Vec<Sharing>| call[0].call() == entry.call();
        match calls.iter_mut().find(fits) {
            Some(call) => call.push(entry),
            None => calls.push(vec![entry]),
        }
    }
    let calls = calls.into_iter();
    calls
        .map(|entries| Call::new(entries, prefix, now))
        .collect()
}

impl Call {
    fn new(entries: Vec<Sharing>, prefix: &str, now: Instant) -> Self {
        let (_, asking, _) = entries[0].call();
        let mut call = Self {
            question: Question::default(),
            asking,
            waiters: Vec::with_capacity(entries.len()),
        };
        let mut groups: Vec<(Group, Vec<Vec<Waiter>>)> = Vec::new();
        for Sharing { waiters, .. } in entries {
            let group = group(&waiters, now);
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, entries)) => entries.push(waiters),
                None => groups.push((group, vec![waiters])),
            }
        }
        for (group, entries) in groups {
            call.question.groups.push((group, entries.len()));
            for waiters in entries {
                let check = waiters[0].check.borrow();
                call.question.keys.extend(keys(prefix, &check));
                call.waiters.push(waiters);
            }
        }
        call
    }

    /// How many checks, refunds and resets it asks for.
    pub(super) fn len(&self) -> usize {
        self.waiters.iter().map(Vec::len).sum()
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
    pub(super) fn answer(
        self,
        now: u64,
        entries: Vec<Result<Charged, Flaw>>,
        asked: Instant,
        denials: &Denials,
    ) -> Undone {
        let mut undone = Undone::default();
        for (waiters, entry) in self.waiters.into_iter().zip(entries) {
            match entry {
                Ok(charged) => hand_out(waiters, now, charged, asked, denials),
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

/// What waiters ask for together: how often, for how long, and with all that was counted elsewhere.
fn group(waiters: &[Waiter], now: Instant) -> Group {
    let until = waiters.iter().map(|waiter| waiter.until).min();
    let good_for = until.unwrap_or(now).saturating_duration_since(now);
    let first = waiters[0].check.borrow();

    let checks = waiters.iter().map(|waiter| waiter.check.borrow());
    let mut carrying = checks.filter_map(|check| Some((check.limits, check.carries()?)));
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
        good_for: rounded(good_for.as_micros() as u64),
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
    pub(super) refused: Vec<Waiter>,
    pub(super) late: Vec<Waiter>,
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
fn hand_out(waiters: Vec<Waiter>, now: u64, charged: Charged, asked: Instant, denials: &Denials) {
    let mut states = charged.before;
    let mut places = charged.times;
    let mut remembered = false;
    for waiter in waiters {
        if waiter.operation != Operation::Check {
            denials.forget(&waiter.subject);
            waiter.answer(Ok(Verdict::new(true, now, states.iter().copied())));
            continue;
        }
        if waiter.sender.is_closed() {
            continue;
        }
        let check = waiter.check.borrow();
        let step = check.decide(now, states.iter().copied());
        if step.verdict.allowed != (places > 0) {
            let error = "the script decided otherwise than the library would";
            waiter.answer(Err(unusable(error)));
            continue;
        }
        if !step.verdict.allowed && !remembered {
            denials.remember(&waiter.subject, &check, &step.verdict, asked);
            remembered = true;
        }
        // If nobody takes it after all, the next waiter does.
        let charged = step.verdict.allowed;
        if waiter.answer(Ok(step.verdict)) && charged {
            places -= 1;
            states = step.next;
        }
    }
}
