//! What can be wrong with a configuration. Each error names the value and the fix.
//!
//! What goes wrong with a store while serving is a [`StoreError`](crate::StoreError).

use std::time::Duration;

use crate::quota::MAX_POLICIES;

/// Numbers or a text that make no [`Quota`](crate::Quota).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct QuotaError(QuotaErrorKind);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum QuotaErrorKind {
    #[error(transparent)]
    Flaw(#[from] QuotaFlaw),
    #[error(
        "`{0}` is no quota: write `100/1m`, `100/1m burst 20`, `sliding 100/1h` or `fixed 10/1s`, \
         with the units d, h, m, s, ms, us"
    )]
    Unreadable(String),
}

impl QuotaError {
    pub(crate) fn unreadable(text: &str) -> Self {
        Self(QuotaErrorKind::Unreadable(shortened(text)))
    }
}

impl From<QuotaFlaw> for QuotaError {
    fn from(flaw: QuotaFlaw) -> Self {
        Self(flaw.into())
    }
}

/// What is wrong with a quota's numbers; `Copy`, so that it can be made in a `const fn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuotaFlaw {
    #[error("{}", self.summary())]
    ZeroLimit,
    #[error("{}", self.summary())]
    ZeroBurst,
    #[error("{}", self.summary())]
    BurstOfWindow,
    #[error("a period of {period:?} is not a whole number of {tick:?}, at least one: {}", self.summary())]
    PeriodNotInTicks { period: Duration, tick: Duration },
    #[error("a period of {period:?} is too long: {}", self.summary())]
    PeriodTooLong { period: Duration },
    #[error("an empty bucket would take {seconds} s to fill: {}", self.summary())]
    FillTooLong { seconds: u64 },
    #[error("{} × {} is 2^53 or more: {}", factors[0], factors[1], self.summary())]
    Inexact { factors: [u64; 2] },
}

impl QuotaFlaw {
    /// The error without its numbers, which a `const` panic cannot format.
    pub(crate) const fn summary(self) -> &'static str {
        match self {
            Self::ZeroLimit => {
                "a quota's limit must be at least 1; to let nobody in, remove the route"
            }
            Self::ZeroBurst => {
                "a quota's burst must be at least 1: a bucket without room admits nothing"
            }
            Self::BurstOfWindow => {
                "only a token bucket has a burst; a window admits its whole limit at once"
            }
            Self::PeriodNotInTicks { .. } => {
                "token buckets count in microseconds, windows in milliseconds"
            }
            Self::PeriodTooLong { .. } => "a quota's period must be at most ten years",
            Self::FillTooLong { .. } => {
                "a bucket must fill within ten years; use a smaller burst or a higher rate"
            }
            Self::Inexact { .. } => {
                "the quota cannot be counted exactly; use a smaller burst or limit, \
                 or numbers with a larger common divisor"
            }
        }
    }
}

/// Policies that make no [`Limits`](crate::Limits).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct LimitsError(LimitsErrorKind);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum LimitsErrorKind {
    #[error("limits hold 1 to {MAX_POLICIES} policies, not {0}; stack layers for more")]
    Count(usize),
    #[error("two policies are named `{0}`; give each its own name")]
    Duplicate(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl LimitsError {
    pub(crate) fn count(count: usize) -> Self {
        Self(LimitsErrorKind::Count(count))
    }

    pub(crate) fn duplicate(name: &str) -> Self {
        Self(LimitsErrorKind::Duplicate(name.into()))
    }
}

impl From<NameError> for LimitsError {
    fn from(error: NameError) -> Self {
        Self(error.into())
    }
}

/// A name of a policy, a scope or an identity's kind that could not stand in a header or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` cannot be the name of a {what}: use 1 to 64 ASCII letters, digits, `.`, `_` and `-`"
)]
pub struct NameError {
    what: &'static str,
    name: String,
}

impl NameError {
    pub(crate) fn new(what: &'static str, name: &str) -> Self {
        Self {
            what,
            name: shortened(name),
        }
    }
}

/// A configuration of client addresses that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClientIpError(pub(crate) String);

/// Enough of a bad value to find it by; control characters escaped.
pub(crate) fn shortened(value: &str) -> String {
    let mut short: String = value
        .chars()
        .take(80)
        .flat_map(char::escape_debug)
        .collect();
    if value.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}

/// A configuration of [`RedisStore`](crate::RedisStore) that cannot be meant.
#[cfg(feature = "redis")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RedisConfigError(pub(crate) String);
