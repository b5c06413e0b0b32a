use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::NameError;

/// Checks a name of a policy, a scope or an identity's kind: `[A-Za-z0-9._-]{1,64}`.
///
/// Such a name can stand in a header, a metric's label and a store's key as it is.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(NameError::new(what, name))
    }
}

/// A part of the application with counts of its own: layers with different scopes never share.
///
/// The default scope is named `default`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// None if it is the default one, which nearly all are: that is copied sooner.
    name: Option<Arc<str>>,
    fingerprint: u128,
}

const DEFAULT: &str = "default";

impl Scope {
    /// A scope by its name: one to 64 of ASCII letters, digits, `.`, `_` and `-`.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check_name("scope", name)?;
        Ok(Self {
            name: (name != DEFAULT).then(|| name.into()),
            fingerprint: fingerprint("scope", name),
        })
    }

    /// Tells this scope from every other, as [`Policy::fingerprint`](super::Policy::fingerprint)
    /// does a policy.
    pub(crate) fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// The scope's name.
    pub fn as_str(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT)
    }
}

/// Half a SHA-256, made once, so that a store need not hash what never changes.
pub(super) fn fingerprint(what: &str, text: &str) -> u128 {
    let digest = Sha256::digest(format!("{what} {text}"));
    let (half, _) = digest.split_at(16);
    u128::from_le_bytes(half.try_into().expect("a half of 32 bytes is 16"))
}

impl Default for Scope {
    fn default() -> Self {
        Self::new(DEFAULT).expect("a good name")
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.as_str())
    }
}
