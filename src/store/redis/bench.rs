//! The steps between a check and the wire, one by one, for `benches/`.

#![allow(missing_docs, missing_debug_implementations, reason = "not for use")]

use std::hint::black_box;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::batch::{add_keys, calls};
use super::script::{Keys, Operation, Question, Script, read};
use super::subject::Subject;
use super::waiter::{Answer, Wait};
use super::waiting;
use crate::store::{Check, OwnedCheck};

const PREFIX: &str = "tollgate";
const PATIENCE: Duration = Duration::from_secs(1);
const NOW: u64 = 1_700_000_000_000_000;

pub struct RedisSteps {
    script: Script,
}

/// Checks that wait for a round trip, and those who wait for their answers.
pub struct Waiting(
    waiting::Waiting,
    #[expect(dead_code, reason = "a check is dropped if nobody waits for it")] Vec<Answer>,
);

/// What was asked, and what the server says to it.
#[derive(Clone)]
pub struct Reply(Value);

impl RedisSteps {
    #[expect(clippy::new_without_default, reason = "not for use")]
    pub fn new() -> Self {
        Self {
            script: Script::new(),
        }
    }

    /// How many keys there are.
    pub fn keys(check: &Check<'_>) -> usize {
        let mut keys = Keys::default();
        add_keys(&mut keys, PREFIX, check);
        black_box(keys).len()
    }

    pub fn waiting(&self, checks: &[OwnedCheck]) -> Waiting {
        let mut queue = waiting::Waiting::default();
        let answers = checks.iter().map(|check| {
            let subject = Subject::new(&check.borrow());
            let until = Instant::now() + PATIENCE;
            let wait = Wait::new(Operation::Check, check.clone(), subject, PATIENCE, until);
            let (waiter, answer) = wait.begin();
            let _ = queue.push(waiter, usize::MAX);
            answer
        });
        let answers = answers.collect();
        Waiting(queue, answers)
    }

    /// The calls for all that wait, and their bytes.
    pub fn batch(&self, waiting: &mut Waiting) -> Vec<(Asked, Vec<u8>)> {
        let entries = waiting.0.take(usize::MAX, Duration::ZERO);
        let calls = calls(entries, false, PREFIX, Instant::now());
        let calls = calls.into_iter().map(|call| {
            let command = self.script.call(&call.question, NOW, false);
            (Asked(call.question), command.get_packed_command())
        });
        calls.collect()
    }
}

pub struct Asked(Question);

impl Asked {
    /// A reply by which all are charged, and none has been before.
    pub fn reply(&self) -> Reply {
        let mut numbers = vec![NOW];
        for (group, entries) in &self.0.groups {
            for _ in 0..*entries {
                numbers.push(group.times as u64);
                let states = group.counts.iter();
                let states = states.map(|(quota, _)| quota.encoded_state_len());
                numbers.extend(vec![0; states.sum()]);
            }
        }
        let numbers = numbers.into_iter();
        let bytes = numbers.flat_map(|number| (number as f64).to_le_bytes());
        Reply(Value::Array(vec![Value::BulkString(bytes.collect())]))
    }

    /// How many entries a reply tells of.
    pub fn read(&self, reply: Reply) -> usize {
        let answer = read(&self.0, Some(reply.0)).expect("a reply to this");
        answer.entries.len()
    }
}
