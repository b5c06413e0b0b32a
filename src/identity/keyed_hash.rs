use std::sync::LazyLock;

use siphasher::sip128::SipHasher13;

use crate::random;

/// The key is random in each process, so that no client can choose identities whose hashes collide.
static HASHER: LazyLock<SipHasher13> =
    LazyLock::new(|| SipHasher13::new_with_keys(random::number(), random::number()));

/// Hashes bytes that a client may have chosen.
#[inline]
pub(super) fn keyed_hash(bytes: &[u8]) -> [u64; 2] {
    HASHER.hash(bytes).as_u64().into()
}
