use std::fmt;
use std::str::FromStr;

use crate::excerpt::excerpt;

/// Decides requests while the store cannot.
///
/// In configurations it is written `open`, `open-unlimited` or `closed`:
///
/// ```
/// use tollgate::FailureStrategy;
///
/// let strategy: FailureStrategy = "open-unlimited".parse()?;
/// assert_eq!(strategy, FailureStrategy::OpenUnlimited);
/// assert_eq!(strategy.to_string(), "open-unlimited");
/// # Ok::<(), tollgate::FailureStrategyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureStrategy {
    /// Fails open with limits: a table in this process enforces the same limits, and starts from the
    /// state that the last shared decision left.
    #[default]
    Open,
    /// Fails open without limits: every request is allowed.
    OpenUnlimited,
    /// Fails closed: every request is refused.
    Closed,
}

/// The error of a text that names no [`FailureStrategy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a failure strategy: use `open`, `open-unlimited` or `closed`")]
pub struct FailureStrategyError(String);

impl FailureStrategy {
    /// Returns the strategy's name in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::OpenUnlimited => "open-unlimited",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for FailureStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FailureStrategy {
    type Err = FailureStrategyError;

    fn from_str(text: &str) -> Result<Self, FailureStrategyError> {
        [Self::Open, Self::OpenUnlimited, Self::Closed]
            .into_iter()
            .find(|strategy| strategy.as_str() == text)
            .ok_or_else(|| FailureStrategyError(excerpt(text)))
    }
}

#[cfg(feature = "serde")]
mod serde_impls {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::FailureStrategy;

    impl Serialize for FailureStrategy {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(self.as_str())
        }
    }

    impl<'de> Deserialize<'de> for FailureStrategy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        }
    }
}
