//! The text form of quotas, such as `100/1m burst 20`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::error::QuotaError;
use super::quota::{Algorithm, Quota, SLOT_TTL};

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
        let limit = self.limit();
        match self.algorithm() {
            Algorithm::TokenBucket => write!(f, "{limit}/{}", Period(self.period()))?,
            Algorithm::SlidingWindow => write!(f, "sliding {limit}/{}", Period(self.period()))?,
            Algorithm::FixedWindow => write!(f, "fixed {limit}/{}", Period(self.period()))?,
            Algorithm::Concurrency => write!(f, "concurrent {limit}")?,
        }
        if self.capacity() != limit {
            write!(f, " burst {}", self.capacity())?;
        }
        if self.queued() > 0 {
            write!(f, " queue {}", self.queued())?;
        }
        match self.reserved_for() {
            Some(ttl) if Some(ttl) != self.algorithm().default_ttl() => {
                write!(f, " reserve {}", Period(ttl))
            }
            _ => Ok(()),
        }
    }
}

impl Algorithm {
    /// Returns the time of reservations that a quota's text leaves out.
    fn default_ttl(self) -> Option<Duration> {
        (self == Self::Concurrency).then_some(Duration::from_millis(SLOT_TTL))
    }
}

/// Formats a period with the longest unit of which it is a multiple.
struct Period(Duration);

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = self.0.as_micros() as u64;
        let (unit, size) = UNITS
            .into_iter()
            .find(|(_, size)| period.is_multiple_of(*size))
            .expect("every period is a multiple of one microsecond");
        write!(f, "{}{unit}", period / size)
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
        let mut next = || words.next().ok_or_else(syntax_error);
        let first = next()?;
        let (algorithm, rate) = match first {
            "sliding" => (Algorithm::SlidingWindow, next()?),
            "fixed" => (Algorithm::FixedWindow, next()?),
            "concurrent" => (Algorithm::Concurrency, next()?),
            rate => (Algorithm::TokenBucket, rate),
        };
        let (limit, period) = match (algorithm, rate.split_once('/')) {
            (Algorithm::Concurrency, None) => (rate, Duration::ZERO),
            (Algorithm::Concurrency, _) | (_, None) => return Err(syntax_error()),
            (_, Some((limit, period))) => (limit, duration(period).ok_or_else(syntax_error)?),
        };
        let limit = number(text, "limit", limit)?;
        let (mut burst, mut queue, mut ttl) = (None, None, None);
        while let Ok(option) = next() {
            let value = next()?;
            let is_repeated = match option {
                "burst" => burst.replace(number(text, "burst", value)?).is_some(),
                "queue" => queue.replace(number(text, "queue", value)?).is_some(),
                "reserve" => {
                    let value = duration(value).ok_or_else(syntax_error)?;
                    ttl.replace(value).is_some()
                }
                _ => true,
            };
            if is_repeated {
                return Err(syntax_error());
            }
        }
        let mut build = || {
            let mut quota = match algorithm {
                Algorithm::TokenBucket => {
                    let burst = burst.take().unwrap_or(limit);
                    Quota::try_token_bucket_with_burst(limit, period, burst)?
                }
                Algorithm::SlidingWindow => Quota::try_sliding_window(limit, period)?,
                Algorithm::FixedWindow => Quota::try_fixed_window(limit, period)?,
                Algorithm::Concurrency => Quota::try_concurrent(limit)?,
            };
            if let Some(burst) = burst {
                quota = quota.try_burst(burst)?;
            }
            if let Some(queue) = queue {
                quota = quota.try_queue(queue)?;
            }
            if let Some(ttl) = ttl {
                quota = quota.try_reserve_for(ttl)?;
            }
            Ok(quota)
        };
        build().map_err(|error: QuotaError| error.of_text(text))
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
