//! The text form of quotas, such as `100/1m burst 20`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::error::QuotaError;
use super::quota::{Algorithm, Quota};

/// Units of a period, in microseconds, the longest first.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.algorithm() {
            Algorithm::TokenBucket => "",
            Algorithm::SlidingWindow => "sliding ",
            Algorithm::FixedWindow => "fixed ",
        };
        let period = self.period().as_micros() as u64;
        let (unit, size) = UNITS
            .into_iter()
            .find(|(_, size)| period.is_multiple_of(*size))
            .expect("every period is a multiple of one microsecond");
        write!(f, "{prefix}{}/{}{unit}", self.limit(), period / size)?;
        if self.capacity() != self.limit() {
            write!(f, " burst {}", self.capacity())?;
        }
        if self.queued() > 0 {
            write!(f, " queue {}", self.queued())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quota({self})")
    }
}

impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let syntax_error = || QuotaError::syntax(text);
        let mut words = text.split_ascii_whitespace();
        let first = words.next().ok_or_else(syntax_error)?;
        let (algorithm, rate) = match first {
            "sliding" => (
                Algorithm::SlidingWindow,
                words.next().ok_or_else(syntax_error)?,
            ),
            "fixed" => (
                Algorithm::FixedWindow,
                words.next().ok_or_else(syntax_error)?,
            ),
            rate => (Algorithm::TokenBucket, rate),
        };
        let (limit, period) = rate.split_once('/').ok_or_else(syntax_error)?;
        let limit = number(text, "limit", limit)?;
        let period = duration(period).ok_or_else(syntax_error)?;
        let (mut burst, mut queue) = (None, None);
        while let Some(word) = words.next() {
            let (option, part) = match word {
                "burst" => (&mut burst, "burst"),
                "queue" => (&mut queue, "queue"),
                _ => return Err(syntax_error()),
            };
            let value = words.next().ok_or_else(syntax_error)?;
            if option.replace(number(text, part, value)?).is_some() {
                return Err(syntax_error());
            }
        }
        let quota = match algorithm {
            Algorithm::TokenBucket => {
                Quota::try_token_bucket_with_burst(limit, period, burst.unwrap_or(limit))
            }
            Algorithm::SlidingWindow => Quota::try_sliding_window(limit, period),
            Algorithm::FixedWindow => Quota::try_fixed_window(limit, period),
        };
        let quota = match burst.filter(|_| algorithm != Algorithm::TokenBucket) {
            Some(burst) => quota.and_then(|window| window.try_burst(burst)),
            None => quota,
        };
        let quota = match queue {
            Some(queue) => quota.and_then(|quota| quota.try_queue(queue)),
            None => quota,
        };
        quota.map_err(|error| error.of_text(text))
    }
}

/// Parses the limit, the burst or the queue of a quota's text. A sign, which Rust's parser would accept, is an error.
fn number(text: &str, part: &'static str, number: &str) -> Result<u32, QuotaError> {
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QuotaError::syntax(text));
    }
    // A number of digits alone fails only because it is too large.
    let parsed = number.parse();
    parsed.map_err(|_| QuotaError::too_large(text, part, number))
}

/// Parses a number, 1 if it is omitted, and a unit.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let count = if count.is_empty() {
        1
    } else {
        count.parse().ok()?
    };
    let (_, size) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    u64::checked_mul(count, size).map(Duration::from_micros)
}
