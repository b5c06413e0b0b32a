//! The script as a command, and its reply as verdicts: the two ends of `check.lua`.

use std::fmt;

use redis::{Cmd, Value};

use super::refusal::Refusal;
use crate::quota::{Numbers, Quota, State};
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
            ("redis.call('TIME')", clock.as_str()),
            ("'PXAT', milliseconds)", "'PX', 3600000)"),
        ];
        Self::of(
            &changes
                .iter()
                .fold(SOURCE.to_owned(), |source, (old, new)| {
                    assert_eq!(source.matches(old).count(), 1, "`{old}` is there once");
                    source.replace(old, new)
                }),
        )
    }

    /// A call, sent when the server's clock shows `now` (microseconds since the Unix epoch), as far
    /// as is known here. `whole` sends the script's text.
    pub(super) fn call(&self, question: &Question, now: u64, whole: bool) -> Cmd {
        let mut command = Cmd::with_capacity(8 + 16 * question.keys.len(), 0);
        match whole {
            true => command.arg("EVAL").arg(&self.source),
            false => command.arg("EVALSHA").arg(&self.hash),
        };
        command.arg(question.keys.len());
        for (key, _) in &question.keys {
            command.arg(key);
        }
        command.arg(now).arg(question.quotas.len());
        for quota in &question.quotas {
            match quota.numbers() {
                Numbers::TokenBucket {
                    burst,
                    num,
                    token,
                    full,
                } => {
                    command.arg("bucket").arg(burst).arg(num);
                    command.arg(&token).arg(&full);
                }
                Numbers::Window {
                    sliding,
                    limit,
                    period,
                } => {
                    let kind = if sliding { "sliding" } else { "fixed" };
                    command.arg(kind).arg(limit).arg(period);
                }
            }
        }
        for (_, quota) in &question.keys {
            command.arg(quota + 1);
        }
        for entry in &question.entries {
            command.arg(entry.operation.as_str());
            command.arg(entry.cost).arg(entry.times);
            command.arg(entry.good_for).arg(entry.counts.len());
            for (key, joined) in &entry.counts {
                command.arg(key + 1).arg(joined.as_deref().unwrap_or(""));
            }
        }
        command
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
    /// Each key, and which of the quotas it is counted by.
    pub(super) keys: Vec<(String, usize)>,
    pub(super) quotas: Vec<Quota>,
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) operation: Operation,
    pub(super) cost: u32,
    /// How many waiters ask for it.
    pub(super) times: usize,
    /// How long after it is sent it may still be done, in microseconds.
    pub(super) good_for: u64,
    /// For each policy: which key, and what to join to it.
    pub(super) counts: PerPolicy<(usize, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Check,
    Refund,
    Reset,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Refund => "refund",
            Self::Reset => "reset",
        }
    }
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
    let mut values = match reply {
        Some(Value::Array(values)) => values,
        Some(Value::ServerError(error)) => return Err(Refusal::of(&error)),
        _ => return Err(Refusal::Unintelligible),
    };
    let refusal = values.pop_if(|value| matches!(value, Value::BulkString(_)));
    let refusal = refusal.map(|text| match text {
        Value::BulkString(text) => Refusal::of_text(&String::from_utf8_lossy(&text)),
        _ => Refusal::Unintelligible,
    });
    let mut numbers = ReplyNumbers(values.into_iter());
    let now = numbers.next_unsigned()?;
    let entries = question.entries.iter();
    let entries = entries.map(|entry| numbers.next_entry(question, entry));
    let entries = entries.collect::<Result<_, _>>()?;
    match numbers.0.next() {
        None => Ok(Answer {
            now,
            entries,
            refusal,
        }),
        Some(_) => Err(Refusal::Unintelligible),
    }
}

/// The integers of a reply.
struct ReplyNumbers(std::vec::IntoIter<Value>);

impl ReplyNumbers {
    fn next(&mut self) -> Result<i64, Refusal> {
        match self.0.next() {
            Some(Value::Int(number)) => Ok(number),
            _ => Err(Refusal::Unintelligible),
        }
    }

    fn next_unsigned(&mut self) -> Result<u64, Refusal> {
        u64::try_from(self.next()?).map_err(|_| Refusal::Unintelligible)
    }

    fn next_entry(
        &mut self,
        question: &Question,
        entry: &Entry,
    ) -> Result<Result<Charged, Flaw>, Refusal> {
        let times = match self.next()? {
            -1 => return Ok(Err(Flaw::WrongType)),
            -2 => return Ok(Err(Flaw::Unreadable)),
            -3 => return Ok(Err(Flaw::Refused)),
            -4 => return Ok(Err(Flaw::TooLate)),
            times => usize::try_from(times).map_err(|_| Refusal::Unintelligible)?,
        };
        let mut before = PerPolicy::new();
        for (key, _) in &entry.counts {
            let quota = &question.quotas[question.keys[*key].1];
            let mut state = [0; 3];
            let state = &mut state[..quota.numbers_of_state()];
            for number in state.iter_mut() {
                *number = self.next_unsigned()?;
            }
            let state = quota.state_from_numbers(state);
            before.push(state.ok_or(Refusal::Unintelligible)?);
        }
        Ok(Ok(Charged { times, before }))
    }
}
