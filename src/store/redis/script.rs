//! The script as a command, and its reply as verdicts: the two ends of `check.lua`.

use std::{fmt, iter, mem};

use redis::{Cmd, Value};

use super::refusal::Refusal;
use crate::quota::{EncodedQuota, Quota, State};
use crate::store::verdict::PerPolicy;

const SOURCE: &str = include_str!("check.lua");

/// The script, and the hash by which the server knows it once it has seen it.
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

    /// The script with its clock in a key of that name, instead of the server's.
    #[cfg(test)]
    pub(super) fn with_clock_in(key: &str) -> Self {
        let clock = format!("redis.call('HMGET', '{key}', 'seconds', 'microseconds')");
        // What is past by that clock may be in the future by the server's, which ends keys.
        let changes = [
            ("redis.call('TIME')", 1, clock.as_str()),
            ("'PXAT', milliseconds)", 2, "'PX', 3600000)"),
            (
                "'PEXPIREAT', count, end_of(full_at, slack))",
                1,
                "'PEXPIRE', count, 3600000)",
            ),
        ];
        Self::of(
            &changes
                .iter()
                .fold(SOURCE.to_owned(), |source, (old, times, new)| {
                    assert_eq!(source.matches(old).count(), *times, "of `{old}`");
                    source.replace(old, new)
                }),
        )
    }

    /// A call, sent when the server's clock shows `now` (microseconds since the Unix epoch), as far
    /// as is known here. `whole` sends the script's text.
    pub(super) fn call(&self, question: &Question, now: u64, whole: bool) -> Cmd {
        let size = question.keys.text.len() + 128;
        let mut command = Cmd::with_capacity(4 + question.keys.len(), size);
        match whole {
            true => command.arg("EVAL").arg(&self.source),
            false => command.arg("EVALSHA").arg(&self.hash),
        };
        command.arg(question.keys.len());
        for key in question.keys.iter() {
            command.arg(key);
        }
        let mut numbers = Vec::with_capacity(96 * question.groups.len());
        let mut texts = Vec::new();
        for (group, entries) in &question.groups {
            let valid_until = now + group.good_for;
            push(&mut numbers, [group.operation as u64, group.cost.into()]);
            push(&mut numbers, [group.times as u64, valid_until]);
            push(
                &mut numbers,
                [*entries, group.counts.len()].map(|n| n as u64),
            );
            for (quota, joined) in &group.counts {
                push(&mut numbers, quota_numbers(quota));
                texts.extend(joined);
                // The numbers come first.
                let place = joined.as_ref().map_or(0, |_| texts.len() + 1);
                push(&mut numbers, [place as u64]);
            }
        }
        command.arg(numbers).arg(texts);
        command
    }
}

/// Adds numbers as the script reads them. They are below 2^53, so that they stay what they are.
fn push<const N: usize>(bytes: &mut Vec<u8>, numbers: [u64; N]) {
    for number in numbers {
        bytes.extend_from_slice(&(number as f64).to_le_bytes());
    }
}

fn quota_numbers(quota: &Quota) -> [u64; 5] {
    match quota.encode() {
        EncodedQuota::TokenBucket {
            burst,
            denominator,
            token: [whole, fraction],
        } => [1, burst.into(), denominator, whole, fraction],
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

/// What one call asks.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// The keys of the first entry, of the second, and so on: none of them twice.
    pub(super) keys: Keys,
    /// Entries that differ in their keys only, and how many of them there are.
    pub(super) groups: Vec<(Group, usize)>,
}

/// The names of counts, one after another.
#[derive(Debug, Default)]
pub(super) struct Keys {
    text: String,
    ends: Vec<usize>,
}

impl Keys {
    /// With room for so many of the usual length.
    pub(super) fn with_capacity(keys: usize) -> Self {
        Self {
            text: String::with_capacity(96 * keys),
            ends: Vec::with_capacity(keys),
        }
    }

    /// Adds one, as it is written.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.ends.push(self.text.len());
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

impl Question {
    fn entries(&self) -> impl Iterator<Item = &Group> {
        let groups = self.groups.iter();
        groups.flat_map(|(group, entries)| iter::repeat_n(group, *entries))
    }
}

/// What entries are asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    pub(super) operation: Operation,
    pub(super) cost: u32,
    /// How many waiters ask for each.
    pub(super) times: usize,
    /// How long after they are sent they may still be done, in microseconds.
    pub(super) good_for: u64,
    /// For each policy: its quota, and what to join to its count.
    pub(super) counts: PerPolicy<(Quota, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Check = 1,
    Reset = 2,
}

/// What the script said.
#[derive(Debug)]
pub(super) struct Answer {
    /// Microseconds since the Unix epoch, by the server's clock.
    pub(super) now: u64,
    pub(super) entries: Vec<Result<Charged, Flaw>>,
    /// Why a read or write was refused.
    pub(super) refusal: Option<Refusal>,
}

/// An entry that was decided.
#[derive(Debug)]
pub(super) struct Charged {
    /// How many of the waiters were charged.
    pub(super) times: usize,
    /// Each policy's state as it was before.
    pub(super) before: PerPolicy<State>,
}

/// Why an entry was not decided: the codes of `check.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    WrongType,
    Unreadable,
    Refused,
    TooLate,
}

/// Reads the reply to a question.
pub(super) fn read(question: &Question, reply: Option<Value>) -> Result<Answer, Refusal> {
    let mut texts = match reply {
        Some(Value::Array(values)) => values.into_iter(),
        Some(Value::ServerError(error)) => return Err(Refusal::of(&error)),
        _ => return Err(Refusal::Unintelligible),
    };
    let (Some(Value::BulkString(numbers)), refusal) = (texts.next(), texts.next()) else {
        return Err(Refusal::Unintelligible);
    };
    let refusal = refusal.map(|text| match text {
        Value::BulkString(text) => Refusal::of_text(&String::from_utf8_lossy(&text)),
        _ => Refusal::Unintelligible,
    });
    let mut numbers = ReplyNumbers(&numbers);
    let now = numbers.next_unsigned()?;
    let entries = question.entries().map(|group| numbers.next_entry(group));
    let entries = entries.collect::<Result<_, _>>()?;
    match numbers.0 {
        [] => Ok(Answer {
            now,
            entries,
            refusal,
        }),
        _ => Err(Refusal::Unintelligible),
    }
}

/// The numbers of a reply, as the script writes them.
struct ReplyNumbers<'a>(&'a [u8]);

impl ReplyNumbers<'_> {
    fn next(&mut self) -> Result<i64, Refusal> {
        let (number, others) = self.0.split_first_chunk().ok_or(Refusal::Unintelligible)?;
        self.0 = others;
        Ok(f64::from_le_bytes(*number) as i64)
    }

    fn next_unsigned(&mut self) -> Result<u64, Refusal> {
        u64::try_from(self.next()?).map_err(|_| Refusal::Unintelligible)
    }

    fn next_entry(&mut self, group: &Group) -> Result<Result<Charged, Flaw>, Refusal> {
        let charged = match self.next()? {
            -1 => Err(Flaw::WrongType),
            -2 => Err(Flaw::Unreadable),
            -3 => Err(Flaw::Refused),
            -4 => Err(Flaw::TooLate),
            times => Ok(usize::try_from(times).map_err(|_| Refusal::Unintelligible)?),
        };
        let mut before = PerPolicy::new();
        for (quota, _) in &group.counts {
            let mut state = [0; 3];
            let state = &mut state[..quota.encoded_state_len()];
            for number in state.iter_mut() {
                *number = self.next_unsigned()?;
            }
            let state = quota.decode_state(state);
            before.push(state.ok_or(Refusal::Unintelligible)?);
        }
        Ok(charged.map(|times| Charged { times, before }))
    }
}
