use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The error of a store that could not decide a check.
///
/// A client never sees it: the [`Limiter`](crate::Limiter) decides by its
/// [`FailureStrategy`](crate::FailureStrategy) instead.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The kind of a [`StoreError`]: the label `kind` of `rate_limit_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store cannot be reached, or the connection was lost.
    Unavailable,
    /// No answer came within the deadline.
    TimedOut,
    /// The store answered with an error: it is read-only, out of memory, or denies access.
    Rejected,
    /// The store's queue is full. The check was not sent.
    Overloaded,
    /// The store works, but cannot decide for this identity: its state is unreadable, its answer is
    /// invalid, or its keys are being moved to another node.
    Unusable,
}

impl StoreErrorKind {
    /// The number of kinds.
    pub(crate) const COUNT: usize = Self::Unusable as usize + 1;

    /// Returns the kind's name in metrics and logs.
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
    /// Creates an error with its cause.
    pub fn new(kind: StoreErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind,
            source: Some(source.into().into()),
        }
    }

    /// Creates the error of a store that cannot settle charges.
    pub(crate) fn without_settlement() -> Self {
        Self::new(
            StoreErrorKind::Unusable,
            "the store cannot settle charges: see `Store::can_settle`",
        )
    }

    /// Adds the address of the server to the cause.
    #[cfg(feature = "redis")]
    pub(crate) fn at(&self, address: &impl fmt::Display) -> Self {
        let error = match &self.source {
            Some(source) => format!("{address}: {source}"),
            None => address.to_string(),
        };
        Self::new(self.kind, error)
    }

    /// Returns the kind of the error.
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
