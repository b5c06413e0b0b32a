/// The labels of a metric.
pub(super) type Labels<'a> = &'a [(&'static str, &'static str)];

/// How a decision is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecisionResult {
    Allowed,
    Blocked,
    /// Denied in shadow mode.
    ShadowBlocked,
}
