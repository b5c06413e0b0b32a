use crate::store::Check;

/// Keyed hashes of a check, compared in place of the identity, scope and policies themselves.
///
/// The hash of the identity has a secret key, so that no client can find an identity whose hash
/// collides with another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint {
    /// The outermost level of the identity, which is the hash tag of all keys.
    pub(super) root: u64,
    pub(super) identity: u64,
    /// Covers the identity, the scope, and all policies in order, with the level that each counts.
    pub(super) check: u128,
}

impl Fingerprint {
    pub(super) fn new(check: &Check<'_>) -> Self {
        let hash = check.identity.keyed_hash();
        let policies = check.limits.policies().iter();
        // The rotation makes the result depend on the order of the policies.
        let limits = policies.fold(check.scope.fingerprint(), |limits, policy| {
            let level = policy
                .level()
                .map_or(0, |_| check.identity_of(policy).keyed_hash());
            limits.rotate_left(1) ^ policy.fingerprint() ^ level
        });
        Self {
            root: check.identity.root().keyed_hash() as u64,
            identity: hash as u64,
            check: hash ^ limits,
        }
    }
}
