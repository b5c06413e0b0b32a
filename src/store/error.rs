use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Why a store did not decide.
///
/// No client ever sees it: the [`Limiter`](crate::Limiter) turns it into the answer that the
/// [`FailureStrategy`](crate::FailureStrategy) asks for.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What kind of failure a [`StoreError`] is. Its label counts in `rate_limit_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store cannot be reached, or the connection broke.
    Unavailable,
    /// No answer came within the deadline.
    TimedOut,
    /// The store answered that it will not: read-only, out of memory, access denied.
    Rejected,
    /// Too many checks are waiting already; this one was never sent.
    Overloaded,
    /// The store is well, but cannot decide for this identity: what it holds or says makes no
    /// sense, or is being moved.
    Unusable,
}

impl StoreErrorKind {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = Self::Unusable as usize + 1;

    /// The kind in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
            Self::Overloaded => "overloaded",
            Self::Unusable => "unusable",
        }
    }
}

impl StoreError {
    /// An error with the one that caused it.
    pub fn new(kind: StoreErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind,
            source: Some(source.into().into()),
        }
    }

    /// The same error, of the server at this address.
    #[cfg(feature = "redis")]
    pub(crate) fn at(&self, address: &impl fmt::Display) -> Self {
        let error = match &self.source {
            Some(source) => format!("{address}: {source}"),
            None => address.to_string(),
        };
        Self::new(self.kind, error)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Unavailable => "the store cannot be reached",
            StoreErrorKind::TimedOut => "the store did not answer within the deadline",
            StoreErrorKind::Rejected => "the store refused to decide",
            StoreErrorKind::Overloaded => "too many checks are waiting for the store",
            StoreErrorKind::Unusable => "the store cannot decide for this identity",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
