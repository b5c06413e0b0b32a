//! The steps from a check to the bytes of a call, and from the bytes of a reply back, for `benches/`.

#![allow(
    missing_docs,
    missing_debug_implementations,
    reason = "only for benches"
)]

use std::hint::black_box;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::batch::{add_keys, calls};
use super::check_queue::CheckQueue;
use super::fingerprint::Fingerprint;
use super::pending::{Answer, Request};
use super::script::{Keys, Operation, Script, ScriptInput, decode};
use crate::store::{Check, OwnedCheck};

const PREFIX: &str = "tollgate";
const TIMEOUT: Duration = Duration::from_secs(1);
const NOW: u64 = 1_700_000_000_000_000;

pub struct RedisSteps {
    script: Script,
}

/// A queue, and the answers of its checks.
pub struct Queue(
    CheckQueue,
    #[expect(dead_code, reason = "a check without its answer is cancelled")] Vec<Answer>,
);

#[derive(Clone)]
pub struct Reply(Value);

impl RedisSteps {
    #[expect(clippy::new_without_default, reason = "only for benches")]
    pub fn new() -> Self {
        Self {
            script: Script::new(),
        }
    }

    /// Builds the keys of a check, and returns their number.
    pub fn keys(check: &Check<'_>) -> usize {
        let mut keys = Keys::default();
        add_keys(&mut keys, PREFIX, check);
        black_box(keys).len()
    }

    pub fn queue(&self, checks: &[OwnedCheck]) -> Queue {
        let mut queue = CheckQueue::default();
        let answers = checks.iter().map(|check| {
            let fingerprint = Fingerprint::new(&check.borrow());
            let deadline = Instant::now() + TIMEOUT;
            let check = check.clone();
            let request = Request::new(Operation::Check, check, fingerprint, TIMEOUT, deadline);
            let (pending, answer) = request.start();
            let _ = queue.push(pending, usize::MAX);
            answer
        });
        let answers = answers.collect();
        Queue(queue, answers)
    }

    /// Takes all queued checks. Returns their calls, and the bytes of each.
    pub fn batch(&self, queue: &mut Queue) -> Vec<(SentCall, Vec<u8>)> {
        let batch = queue.0.take_batch(usize::MAX, Duration::ZERO);
        let calls = calls(batch, false, PREFIX, Instant::now());
        let calls = calls.into_iter().map(|call| {
            let command = self.script.command(&call.input, NOW, false);
            (SentCall(call.input), command.get_packed_command())
        });
        calls.collect()
    }
}

pub struct SentCall(ScriptInput);

impl SentCall {
    /// A reply that charges all checks, of identities without state.
    pub fn reply(&self) -> Reply {
        let mut numbers = vec![NOW];
        for (group, items) in &self.0.groups {
            for _ in 0..*items {
                numbers.push(group.times as u64);
                let states = group.policies.iter();
                let states = states.map(|(quota, _)| quota.encoded_state_len());
                numbers.extend(vec![0; states.sum()]);
            }
        }
        let numbers = numbers.into_iter();
        let bytes = numbers.flat_map(|number| (number as f64).to_le_bytes());
        Reply(Value::Array(vec![Value::BulkString(bytes.collect())]))
    }

    /// Decodes a reply, and returns the number of batch items in it.
    pub fn decode(&self, reply: Reply) -> usize {
        let reply = decode(&self.0, Some(reply.0)).expect("the reply is valid");
        reply.items.len()
    }
}
