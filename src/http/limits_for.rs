use crate::quota::Limits;

/// The limits of a request: the result of the closure of
/// [`RateLimitLayer::limits_for`](crate::RateLimitLayer::limits_for).
///
/// `Limits` and `Option<Limits>` convert into it: `Some` to [`Own`](LimitsFor::Own), and `None` to
/// [`Layer`](LimitsFor::Layer).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitsFor {
    /// The layer's limits.
    #[default]
    Layer,
    /// Limits of the request's own.
    Own(Limits),
    /// No limits: the request is not charged, and its response gets no headers.
    Unlimited,
}

impl From<Limits> for LimitsFor {
    fn from(limits: Limits) -> Self {
        Self::Own(limits)
    }
}

impl From<Option<Limits>> for LimitsFor {
    fn from(limits: Option<Limits>) -> Self {
        limits.map_or(Self::Layer, Self::Own)
    }
}
