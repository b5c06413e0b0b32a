//! Checks that wait for a round trip, and how many of them become one call.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::denials::Denials;
use super::script::{Charged, Entry, Flaw, Operation, Question};
use super::subject::Subject;
use crate::quota::{Policy, Quota, Scope};
use crate::store::{OwnedCheck, StoreError, StoreErrorKind, Verdict};

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

/// What equal checks have in common: whom and what they are about, their cost and their patience.
type Equal = (u128, u32, Duration);

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

    fn equal(&self) -> Option<Equal> {
        let key = (self.subject.check, self.check.borrow().cost, self.patience);
        (self.operation == Operation::Check).then_some(key)
    }
}

/// The name of a count, as operators see it.
pub(super) fn key(prefix: &str, identity: &dyn Display, scope: &Scope, policy: &Policy) -> String {
    let quota = policy.quota().to_string().replace(' ', "-");
    let scope = scope.as_str();
    format!("{prefix}:{{{identity}}}:{scope}:{}:{quota}", policy.name())
}

/// Waiters that share a call: all of one slot.
pub(super) struct Call {
    pub(super) question: Question,
    pub(super) asking: bool,
    /// For each entry, those who asked for it.
    waiters: Vec<Vec<Waiter>>,
    /// Where each key is in the question.
    keys: HashMap<String, usize>,
    /// The entries that equal checks can share.
    shared: HashMap<Equal, usize>,
}

/// Takes waiters off the queue for one round trip, with at most `most_keys` keys in all, but never
/// fewer than one waiter's. Those that have gone, or would before it is over, are dropped.
pub(super) fn take(
    queue: &mut VecDeque<Waiter>,
    most_keys: usize,
    round_trip: Duration,
) -> Vec<Waiter> {
    let now = Instant::now();
    let mut taken = Vec::new();
    let mut equals = HashSet::new();
    let mut keys = 0;
    while let Some(waiter) = queue.pop_front() {
        if waiter.sender.is_closed() || waiter.is_hopeless(now, round_trip) {
            waiter.answer(Err(StoreErrorKind::TimedOut.into()));
            continue;
        }
        let equal = waiter.equal();
        if !equal.is_some_and(|equal| equals.contains(&equal)) {
            keys += waiter.check.borrow().limits.policies().len();
            if keys > most_keys && !taken.is_empty() {
                queue.push_front(waiter);
                break;
            }
            equals.extend(equal);
        }
        taken.push(waiter);
    }
    taken
}

/// Makes a call of each slot's waiters, to be sent at `now`.
pub(super) fn calls(waiters: Vec<Waiter>, prefix: &str, now: Instant) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut by_slot = HashMap::new();
    for waiter in waiters {
        let slot = (waiter.slot, waiter.asking);
        let call = *by_slot.entry(slot).or_insert_with(|| {
            calls.push(Call::new(waiter.asking));
            calls.len() - 1
        });
        calls[call].add(waiter, prefix);
    }
    for call in &mut calls {
        call.complete(now);
    }
    calls
}

impl Call {
    fn new(asking: bool) -> Self {
        Self {
            question: Question::default(),
            asking,
            waiters: Vec::new(),
            keys: HashMap::new(),
            shared: HashMap::new(),
        }
    }

    fn add(&mut self, waiter: Waiter, prefix: &str) {
        if let Some(equal) = waiter.equal() {
            match self.shared.entry(equal) {
                Occupied(entry) => {
                    self.waiters[*entry.get()].push(waiter);
                    return;
                }
                Vacant(entry) => {
                    entry.insert(self.waiters.len());
                }
            }
        }
        let check = waiter.check.borrow();
        let counts = check.limits.policies().iter().map(|policy| {
            let key = key(prefix, check.identity, check.scope, policy);
            (self.key(key, *policy.quota()), None)
        });
        let entry = Entry {
            operation: waiter.operation,
            cost: check.cost,
            times: 0,
            good_for: 0,
            counts: counts.collect(),
        };
        self.question.entries.push(entry);
        self.waiters.push(vec![waiter]);
    }

    /// Fills in what the waiters of an entry ask for together: how often, for how long, and with
    /// all that was counted elsewhere.
    fn complete(&mut self, now: Instant) {
        for (entry, waiters) in self.question.entries.iter_mut().zip(&self.waiters) {
            entry.times = waiters.len();
            let until = waiters.iter().map(|waiter| waiter.until).min();
            let good_for = until.unwrap_or(now).saturating_duration_since(now);
            entry.good_for = good_for.as_micros() as u64;

            let checks = waiters.iter().map(|waiter| waiter.check.borrow());
            let mut carrying = checks.filter_map(|check| Some((check.limits, check.carries()?)));
            let Some((limits, first)) = carrying.next() else {
                continue;
            };
            let mut carried = first.clone();
            carrying.for_each(|(_, other)| carried.join(limits, other));
            for (policy, (_, joined)) in entry.counts.iter_mut().enumerate() {
                *joined = carried.relative(limits, policy);
            }
        }
    }

    /// Where a key is in the question. It is the name of its quota too.
    fn key(&mut self, key: String, quota: Quota) -> usize {
        let question = &mut self.question;
        *self.keys.entry(key).or_insert_with_key(|key| {
            let known = question.quotas.iter().position(|known| *known == quota);
            let quota = known.unwrap_or_else(|| {
                question.quotas.push(quota);
                question.quotas.len() - 1
            });
            question.keys.push((key.clone(), quota));
            question.keys.len() - 1
        })
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
