//! Quotas as text, and with serde.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::quota::{Algorithm, Quota};
use crate::error::QuotaError;

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
            .expect("every number is a multiple of one microsecond");
        write!(f, "{prefix}{}/{}{unit}", self.limit(), period / size)?;
        if self.capacity() != self.limit() {
            write!(f, " burst {}", self.capacity())?;
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
        let unreadable = || QuotaError::unreadable(text);
        let mut words = text.split_ascii_whitespace();
        let first = words.next().ok_or_else(unreadable)?;
        let (algorithm, rate) = match first {
            "sliding" => (
                Algorithm::SlidingWindow,
                words.next().ok_or_else(unreadable)?,
            ),
            "fixed" => (Algorithm::FixedWindow, words.next().ok_or_else(unreadable)?),
            rate => (Algorithm::TokenBucket, rate),
        };
        let (limit, period) = rate.split_once('/').ok_or_else(unreadable)?;
        let limit = number(limit).ok_or_else(unreadable)?;
        let period = duration(period).ok_or_else(unreadable)?;
        let burst = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some("burst"), Some(burst), None) => Some(number(burst).ok_or_else(unreadable)?),
            _ => return Err(unreadable()),
        };
        let window = match algorithm {
            Algorithm::TokenBucket => {
                let burst = burst.unwrap_or(limit);
                return Quota::try_token_bucket_with_burst(limit, period, burst);
            }
            Algorithm::SlidingWindow => Quota::try_sliding_window(limit, period)?,
            Algorithm::FixedWindow => Quota::try_fixed_window(limit, period)?,
        };
        match burst {
            Some(burst) => window.try_burst(burst),
            None => Ok(window),
        }
    }
}

/// Digits alone: Rust's own parser would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

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

#[cfg(feature = "serde")]
mod serde_impls {
    use std::fmt;

    use serde::de::{Error, MapAccess, Visitor};
    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::quota::{Limits, Policy, Quota};

    /// As text, for example `"100/1m burst 20"`.
    impl Serialize for Quota {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    impl<'de> Deserialize<'de> for Quota {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Text;
            impl Visitor<'_> for Text {
                type Value = Quota;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a quota such as \"100/1m\"")
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<Quota, E> {
                    text.parse().map_err(E::custom)
                }
            }
            deserializer.deserialize_str(Text)
        }
    }

    /// As a map from policy to quota, in order.
    impl Serialize for Limits {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(self.policies().len()))?;
            for policy in self.policies() {
                map.serialize_entry(policy.name(), policy.quota())?;
            }
            map.end()
        }
    }

    /// From a map from policy to quota, or from a single quota, which is named `default`.
    impl<'de> Deserialize<'de> for Limits {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Map;
            impl<'de> Visitor<'de> for Map {
                type Value = Limits;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a quota such as \"100/1m\", or a map of named quotas")
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<Limits, E> {
                    text.parse::<Quota>().map(Limits::from).map_err(E::custom)
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limits, A::Error> {
                    let mut policies = Vec::new();
                    while let Some((name, quota)) = map.next_entry::<String, Quota>()? {
                        policies.push(Policy::new(name, quota));
                    }
                    Limits::new(policies).map_err(A::Error::custom)
                }
            }
            deserializer.deserialize_any(Map)
        }
    }
}
