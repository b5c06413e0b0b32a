//! Checks that wait for a round trip, and how many of them become one call.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Display;

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
    /// When nobody waits any more.
    pub(super) until: Instant,
    /// Whether to try even a server that has just failed.
    pub(super) probes: bool,
    /// How often the server said that it did not run it.
    pub(super) refused: u32,
    /// Whether a node of the cluster is asked for keys that it is about to own.
    pub(super) asking: bool,
    /// Which slot of the cluster the keys are in; 0 where there is no cluster.
    pub(super) slot: u16,
    pub(super) answer: oneshot::Sender<Result<Verdict, StoreError>>,
}

impl Waiter {
    /// Answers. Says whether anybody was still there.
    pub(super) fn answer(self, answer: Result<Verdict, StoreError>) -> bool {
        self.answer.send(answer).is_ok()
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

/// What equal checks have in common: whom and what they are about, and their cost.
type Equal = (u128, u32);

/// Takes waiters off the queue for one round trip, with at most `most_keys` keys in all, but never
/// fewer than one waiter's. Those that nobody waits for are dropped.
pub(super) fn take(queue: &mut VecDeque<Waiter>, most_keys: usize) -> Vec<Waiter> {
    let now = Instant::now();
    let mut taken = Vec::new();
    let mut equals = HashSet::new();
    let mut keys = 0;
    while let Some(waiter) = queue.pop_front() {
        if waiter.until <= now || waiter.answer.is_closed() {
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

/// Makes a call of each slot's waiters.
pub(super) fn calls(waiters: Vec<Waiter>, prefix: &str) -> Vec<Call> {
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
                    self.question.entries[*entry.get()].times += 1;
                    self.waiters[*entry.get()].push(waiter);
                    return;
                }
                Vacant(entry) => {
                    entry.insert(self.waiters.len());
                }
            }
        }
        let check = waiter.check.borrow();
        let policies = check.limits.policies().iter().enumerate();
        let counts = policies.map(|(index, policy)| {
            let key = key(prefix, check.identity, check.scope, policy);
            (
                self.key(key, *policy.quota()),
                check.carried_relative(index),
            )
        });
        let entry = Entry {
            operation: waiter.operation,
            cost: check.cost,
            times: 1,
            counts: counts.collect(),
        };
        self.question.entries.push(entry);
        self.waiters.push(vec![waiter]);
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

    /// When the first of its waiters will be gone: nothing must be charged later.
    pub(super) fn until(&self) -> Option<Instant> {
        self.waiters
            .iter()
            .flatten()
            .map(|waiter| waiter.until)
            .min()
    }

    pub(super) fn into_waiters(self) -> impl Iterator<Item = Waiter> {
        self.waiters.into_iter().flatten()
    }

    /// Tells all waiters that it was not decided.
    pub(super) fn fail(self, error: &StoreError) {
        for waiter in self.into_waiters() {
            waiter.answer(Err(error.clone()));
        }
    }

    /// Hands the script's answer, to a call made at `asked`, to those who are still there. What was
    /// refused is returned.
    pub(super) fn answer(
        self,
        now: u64,
        entries: Vec<Result<Charged, Flaw>>,
        asked: Instant,
        denials: &Denials,
    ) -> Vec<Waiter> {
        let mut refused = Vec::new();
        for (waiters, entry) in self.waiters.into_iter().zip(entries) {
            match entry {
                Ok(charged) => settle(waiters, now, charged, asked, denials),
                Err(Flaw::Refused) => refused.extend(waiters),
                Err(flaw) => {
                    for waiter in waiters {
                        waiter.answer(Err(flaw.into()));
                    }
                }
            }
        }
        refused
    }
}

impl Waiter {
    fn equal(&self) -> Option<Equal> {
        let check = self.check.borrow();
        let alike = self.operation == Operation::Check && !check.carries();
        alike.then_some((self.subject.check, check.cost))
    }
}

impl From<Flaw> for StoreError {
    fn from(flaw: Flaw) -> Self {
        let reason = match flaw {
            Flaw::WrongType => "a key holds something else than a count: delete it",
            Flaw::Unreadable => "a key's value is no count: delete it",
            Flaw::Refused => "the server refused to read or write",
        };
        Self::new(StoreErrorKind::Unusable, reason)
    }
}

/// Tells the waiters of one entry, of which the first `charged.times` that are still there pass.
fn settle(waiters: Vec<Waiter>, now: u64, charged: Charged, asked: Instant, denials: &Denials) {
    let mut states = charged.before;
    let mut places = charged.times;
    let mut remembered = false;
    for waiter in waiters {
        if waiter.operation != Operation::Check {
            denials.forget(&waiter.subject);
            waiter.answer(Ok(Verdict::new(true, now, states.iter().copied())));
            continue;
        }
        if waiter.answer.is_closed() {
            continue;
        }
        let check = waiter.check.borrow();
        let step = check.decide(now, states.iter().copied());
        if step.verdict.allowed != (places > 0) {
            let error = "the script decided otherwise than the library would";
            waiter.answer(Err(StoreError::new(StoreErrorKind::Unusable, error)));
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
