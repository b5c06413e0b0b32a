//! Encodes calls of `check.lua`, and decodes the replies.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::time::Duration;
use std::{fmt, iter, mem};

use redis::{Cmd, Value};

use super::error::CallError;
use crate::quota::{EncodedQuota, Quota, State};
use crate::store::prehashed::PrehashedHasher;
use crate::store::verdict::PerPolicy;

const SOURCE: &str = include_str!("check.lua");

/// The script's source, and the SHA-1 hash by which `EVALSHA` names it.
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    pub(super) fn new() -> Self {
        Self::of(SOURCE)
    }

    fn of(source: &str) -> Self {
        Self {
            source: source.into(),
            hash: redis::Script::new(source).get_hash().into(),
        }
    }

    /// The script with a clock that is stored at `key`, in place of the server's clock.
    #[cfg(test)]
    pub(super) fn with_clock_in(key: &str) -> Self {
        let clock = format!("redis.call('HMGET', '{key}', 'seconds', 'microseconds')");
        // Keys expire by the server's clock, so they get a fixed time to live.
        let changes = [
            ("redis.call('TIME')", 1, clock.as_str()),
            ("'PXAT', milliseconds)", 2, "'PX', 3600000)"),
            (
                "'PEXPIREAT', state_key, end_of(full_at, slack))",
                1,
                "'PEXPIRE', state_key, 3600000)",
            ),
        ];
        Self::of(
            &changes
                .iter()
                .fold(SOURCE.to_owned(), |source, (old, times, new)| {
                    assert_eq!(source.matches(old).count(), *times, "`{old}` in check.lua");
                    source.replace(old, new)
                }),
        )
    }

    /// Returns the command for a call. `now` is the estimated time of the server's clock, in
    /// microseconds since the Unix epoch. `with_source` sends the source in place of its hash.
    pub(super) fn command(&self, input: &ScriptInput, now: u64, with_source: bool) -> Cmd {
        let size = input.keys.text.len() + 128;
        let mut command = Cmd::with_capacity(5 + input.keys.len(), size);
        match with_source {
            true => command.arg("EVAL").arg(&self.source),
            false => command.arg("EVALSHA").arg(&self.hash),
        };
        command.arg(input.keys.len());
        for key in input.keys.iter() {
            command.arg(key);
        }
        let mut numbers = Vec::with_capacity(96 * input.groups.len());
        let mut joined_states = Vec::new();
        for (group, items) in &input.groups {
            let valid_until = now + group.valid_for;
            push(&mut numbers, [group.operation as u64, group.cost.into()]);
            push(&mut numbers, [group.times as u64, valid_until]);
            push(
                &mut numbers,
                [*items, group.policies.len()].map(|n| n as u64),
            );
            for (policy, (quota, joined)) in group.policies.iter().enumerate() {
                push(&mut numbers, quota_numbers(quota));
                joined_states.extend(joined);
                // The first joined state is ARGV[3].
                let index = joined
                    .as_ref()
                    .map_or(0, |_| joined_states.len() as u64 + 2);
                let mark = group.marks.get(policy).copied();
                push(&mut numbers, [mark.unwrap_or(index)]);
                if let Some(max_debt) = quota.encode_max_debt(group.cost, group.max_wait) {
                    push(&mut numbers, max_debt);
                }
                if let EncodedQuota::Reserving { ttl, .. } = quota.encode() {
                    push(&mut numbers, [ttl]);
                }
            }
        }
        let mut indexes = Vec::new();
        if !input.keys.are_distinct() {
            for index in &input.keys.indexes {
                push(&mut indexes, [*index as u64 + 1]);
            }
        }
        command.arg(numbers).arg(indexes).arg(joined_states);
        command
    }
}

/// Appends numbers as little-endian doubles. They are below 2^53, so the conversion is exact.
fn push<const N: usize>(bytes: &mut Vec<u8>, numbers: [u64; N]) {
    for number in numbers {
        bytes.extend_from_slice(&(number as f64).to_le_bytes());
    }
}

fn quota_numbers(quota: &Quota) -> [u64; 5] {
    match quota.encode() {
        EncodedQuota::TokenBucket {
            tokens,
            denominator,
            token: [whole, fraction],
        } => {
            let kind = if quota.queued() > 0 { 4 } else { 1 };
            [kind, tokens, denominator, whole, fraction]
        }
        EncodedQuota::Reserving {
            burst,
            denominator,
            token: [whole, fraction],
            ..
        } => [5, burst.into(), denominator, whole, fraction],
        EncodedQuota::Window {
            sliding,
            limit,
            period,
        } => [if sliding { 2 } else { 3 }, limit.into(), period, 0, 0],
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script({})", self.hash)
    }
}

/// The input of one call.
#[derive(Debug, Default)]
pub(super) struct ScriptInput {
    /// The keys of all batch items.
    pub(super) keys: Keys,
    /// The groups, and the number of batch items in each.
    pub(super) groups: Vec<(Group, usize)>,
}

/// Redis keys in one buffer, each of them once, and the keys of the batch items.
#[derive(Debug, Default)]
pub(super) struct Keys {
    text: String,
    ends: Vec<usize>,
    /// The index of each key, by its hash.
    known: HashMap<u128, usize, BuildHasherDefault<PrehashedHasher>>,
    /// The indexes of the keys of all batch items, in order.
    indexes: Vec<usize>,
}

impl Keys {
    /// Reserves memory for this many keys of the usual length.
    pub(super) fn with_capacity(keys: usize) -> Self {
        Self {
            text: String::with_capacity(96 * keys),
            ends: Vec::with_capacity(keys),
            known: HashMap::with_capacity_and_hasher(keys, BuildHasherDefault::default()),
            indexes: Vec::with_capacity(keys),
        }
    }

    /// Adds a key to the current batch item. Unless a key of this hash is there already, `write` appends
    /// it.
    pub(super) fn add(&mut self, hash: u128, write: impl FnOnce(&mut String)) {
        let new = self.ends.len();
        let index = *self.known.entry(hash).or_insert(new);
        if index == new {
            write(&mut self.text);
            self.ends.push(self.text.len());
        }
        self.indexes.push(index);
    }

    /// Whether no two batch items share a key, so that the indexes are consecutive.
    fn are_distinct(&self) -> bool {
        self.indexes.len() == self.ends.len()
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |end| &self.text[mem::replace(&mut start, *end)..*end])
    }
}

impl ScriptInput {
    /// Returns the group of each batch item.
    fn items(&self) -> impl Iterator<Item = &Group> {
        let groups = self.groups.iter();
        groups.flat_map(|(group, items)| iter::repeat_n(group, *items))
    }
}

/// The properties that batch items of one group share: all but their keys.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    pub(super) operation: Operation,
    pub(super) cost: u32,
    /// The longest wait in a queue.
    pub(super) max_wait: Duration,
    /// The number of coalesced checks in each item. For a settlement, the cost that was used.
    pub(super) times: usize,
    /// For a settlement or a renewal, the mark of the charge under each policy.
    pub(super) marks: PerPolicy<u64>,
    /// How long after sending the items may still be decided, in microseconds.
    pub(super) valid_for: u64,
    /// For each policy: the quota, and a state to join with the stored one.
    pub(super) policies: PerPolicy<(Quota, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Check = 1,
    Reset = 2,
    /// A check that reserves its cost under quotas that can.
    Reserve = 3,
    Settle = 4,
    Renew = 5,
}

impl Operation {
    /// Returns whether the script decides by the limits.
    pub(super) fn is_check(self) -> bool {
        matches!(self, Self::Check | Self::Reserve)
    }
}

/// The reply to one call.
#[derive(Debug)]
pub(super) struct ScriptReply {
    /// The server's clock, in microseconds since the Unix epoch.
    pub(super) now: u64,
    pub(super) items: Vec<Result<DecidedItem, ItemError>>,
    /// Why a read or a write failed.
    pub(super) error: Option<CallError>,
}

/// A batch item that was decided.
#[derive(Debug)]
pub(super) struct DecidedItem {
    /// The number of checks that were charged.
    pub(super) charged: usize,
    /// Each policy's state before the charge.
    pub(super) states: PerPolicy<State>,
    /// For each policy that reserves, the number of the current generation; otherwise 0.
    pub(super) generations: PerPolicy<u64>,
}

/// Why a batch item was not decided: the error codes of `check.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemError {
    /// A key holds a value of another type.
    WrongType,
    /// A key's value is not a state.
    Unparsable,
    /// The server failed a read or a write: see [`ScriptReply::error`].
    CommandFailed,
    /// The item arrived after `valid_for`.
    Expired,
}

/// Decodes the reply to a call.
pub(super) fn decode(input: &ScriptInput, reply: Option<Value>) -> Result<ScriptReply, CallError> {
    let mut elements = match reply {
        Some(Value::Array(elements)) => elements.into_iter(),
        Some(Value::ServerError(error)) => return Err(CallError::from_reply(&error)),
        _ => return Err(CallError::UnexpectedReply),
    };
    let (Some(Value::BulkString(numbers)), error) = (elements.next(), elements.next()) else {
        return Err(CallError::UnexpectedReply);
    };
    let error = error.map(|text| match text {
        Value::BulkString(text) => CallError::parse(&String::from_utf8_lossy(&text)),
        _ => CallError::UnexpectedReply,
    });
    let mut numbers = ReplyNumbers(&numbers);
    let now = numbers.next_unsigned()?;
    let items = input.items().map(|group| numbers.next_item(group));
    let items = items.collect::<Result<_, _>>()?;
    match numbers.0 {
        [] => Ok(ScriptReply { now, items, error }),
        _ => Err(CallError::UnexpectedReply),
    }
}

/// The little-endian doubles of a reply.
struct ReplyNumbers<'a>(&'a [u8]);

impl ReplyNumbers<'_> {
    fn next(&mut self) -> Result<i64, CallError> {
        let (number, rest) = self
            .0
            .split_first_chunk()
            .ok_or(CallError::UnexpectedReply)?;
        self.0 = rest;
        Ok(f64::from_le_bytes(*number) as i64)
    }

    fn next_unsigned(&mut self) -> Result<u64, CallError> {
        u64::try_from(self.next()?).map_err(|_| CallError::UnexpectedReply)
    }

    fn next_item(&mut self, group: &Group) -> Result<Result<DecidedItem, ItemError>, CallError> {
        let charged = match self.next()? {
            -1 => Err(ItemError::WrongType),
            -2 => Err(ItemError::Unparsable),
            -3 => Err(ItemError::CommandFailed),
            -4 => Err(ItemError::Expired),
            times => Ok(usize::try_from(times).map_err(|_| CallError::UnexpectedReply)?),
        };
        let (mut states, mut generations) = (PerPolicy::new(), PerPolicy::new());
        for (quota, _) in &group.policies {
            let mut state = [0; 4];
            let numbers = &mut state[..quota.encoded_state_len()];
            for number in numbers.iter_mut() {
                *number = self.next_unsigned()?;
            }
            let decoded = quota.decode_state(numbers);
            states.push(decoded.ok_or(CallError::UnexpectedReply)?);
            generations.push(state[3]);
        }
        Ok(charged.map(|charged| DecidedItem {
            charged,
            states,
            generations,
        }))
    }
}
