use super::caller::Caller;

/// Which callers may give limits of their own, instead of the configured ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GivenLimits {
    #[default]
    Nobody,
    /// Bearers of a tenant's token, and an Envoy that shows a token.
    Tenants,
    /// Also callers without a token, and bearers of JSON web tokens, which thereby escape the limits
    /// that are meant for them.
    All,
}

impl GivenLimits {
    /// Whether this caller may.
    pub(crate) fn may(self, caller: &Caller) -> bool {
        match caller {
            Caller::Operator => true,
            Caller::Tenant(_) | Caller::Envoy => self != Self::Nobody,
            Caller::Anybody | Caller::User { .. } => self == Self::All,
        }
    }
}
