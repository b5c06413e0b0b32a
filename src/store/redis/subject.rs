use std::hash::Hash;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::random;
use crate::store::Check;

/// Whom a check is about and under what limits, as hashes with a secret key: clients choose the
/// identities, and none can choose one that passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) identity: u64,
    /// Of the identity, the scope and all policies in order.
    pub(super) check: u128,
}

pub(super) struct Secret([u64; 2]);

impl Secret {
    pub(super) fn new() -> Self {
        Self([random::number(), random::number()])
    }

    pub(super) fn subject(&self, check: &Check<'_>) -> Subject {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        check.identity.hash(&mut hasher);
        let hash = hasher.finish128();
        // The fingerprints are hashes too, of what no client chooses. Turned, they tell the order.
        let policies = check.limits.policies().iter();
        let what = policies.fold(check.scope.fingerprint(), |what, policy| {
            what.rotate_left(1) ^ policy.fingerprint()
        });
        Subject {
            identity: hash.h1,
            check: hash.as_u128() ^ what,
        }
    }
}
