use siphasher::sip128::SipHasher13;

use crate::identity::Identity;
use crate::random;

/// Unguessable, so that nobody can choose identities whose hashes collide.
pub(crate) struct Secret(pub(crate) [u64; 2]);

impl Secret {
    pub(crate) fn new() -> Self {
        Self([random::number(), random::number()])
    }

    #[inline(always)]
    pub(crate) fn hash(&self, identity: &Identity) -> u128 {
        let hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        identity.with_bytes(|bytes| hasher.hash(bytes).as_u128())
    }
}
