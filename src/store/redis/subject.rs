use crate::store::Check;

/// Whom a check is about and under what limits, as hashes with a secret key: clients choose the
/// identities, and none can choose one that passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) identity: u64,
    /// Of the identity, the scope and all policies in order.
    pub(super) check: u128,
}

impl Subject {
    pub(super) fn new(check: &Check<'_>) -> Self {
        let hash = check.identity.keyed_hash();
        // The fingerprints are hashes too, of what no client chooses. Turned, they tell the order.
        let policies = check.limits.policies().iter();
        let what = policies.fold(check.scope.fingerprint(), |what, policy| {
            what.rotate_left(1) ^ policy.fingerprint()
        });
        Self {
            identity: hash as u64,
            check: hash ^ what,
        }
    }
}
