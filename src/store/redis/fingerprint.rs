use crate::store::Check;

/// Keyed hashes of a check, compared in place of the identity, scope and policies themselves.
///
/// The hash of the identity has a secret key, so that no client can find an identity whose hash
/// collides with another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint {
    pub(super) identity: u64,
    /// Covers the identity, the scope, and all policies in order.
    pub(super) check: u128,
}

impl Fingerprint {
    pub(super) fn new(check: &Check<'_>) -> Self {
        let hash = check.identity.keyed_hash();
        let policies = check.limits.policies().iter();
        // The rotation makes the result depend on the order of the policies.
        let limits = policies.fold(check.scope.fingerprint(), |limits, policy| {
            limits.rotate_left(1) ^ policy.fingerprint()
        });
        Self {
            identity: hash as u64,
            check: hash ^ limits,
        }
    }
}
