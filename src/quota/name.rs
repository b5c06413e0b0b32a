use sha2::{Digest, Sha256};

use crate::excerpt::excerpt;

/// Checks the name of a policy, a scope or an identity's kind: `[A-Za-z0-9._-]{1,64}`.
///
/// A valid name needs no escaping in headers, metric labels and store keys. `item` says what the
/// name is for, in the error's text.
pub(crate) fn check_name(item: &'static str, name: &str) -> Result<(), NameError> {
    if is_name(name) {
        return Ok(());
    }
    let name = excerpt(name);
    Err(NameError(NameErrorKind::Invalid { item, name }))
}

/// Returns whether [`check_name`] accepts a name.
pub(super) const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !bytes[index].is_ascii_alphanumeric() && !matches!(bytes[index], b'.' | b'_' | b'-') {
            return false;
        }
        index += 1;
    }
    matches!(bytes.len(), 1..=64)
}

/// Returns the first half of a SHA-256, which is computed once for each item and then used by
/// stores in their keys.
pub(super) fn fingerprint(item: &str, text: &str) -> u128 {
    let digest = Sha256::digest(format!("{item} {text}"));
    let (half, _) = digest.split_at(16);
    u128::from_le_bytes(half.try_into().expect("half of 32 bytes is 16"))
}

/// An invalid name of a policy, a scope or an identity's kind, or an invalid text of an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct NameError(NameErrorKind);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NameErrorKind {
    #[error(
        "`{name}` cannot be the name of a {item}: use 1 to 64 ASCII letters, digits, `.`, `_` and `-`"
    )]
    Invalid { item: &'static str, name: String },
    // The text is not part of the message: it may be a secret value without its kind.
    #[error("an identity's text has no `:`; write `kind:value`")]
    MissingKind,
    #[error(
        "the text of a `{kind}` identity holds a digest, from which the identity cannot be restored; \
         use the value itself"
    )]
    Digest { kind: String },
}

impl NameError {
    pub(crate) fn missing_kind() -> Self {
        Self(NameErrorKind::MissingKind)
    }

    pub(crate) fn digest(kind: &str) -> Self {
        let kind = excerpt(kind);
        Self(NameErrorKind::Digest { kind })
    }

    /// Returns whether the name is empty, longer than 64 bytes, or has a character other than
    /// ASCII letters, digits, `.`, `_` and `-`.
    pub fn is_invalid_name(&self) -> bool {
        matches!(self.0, NameErrorKind::Invalid { .. })
    }

    /// Returns whether the text of an [`Identity`](crate::Identity) is not of the form
    /// `kind:value`.
    pub fn is_missing_kind(&self) -> bool {
        matches!(self.0, NameErrorKind::MissingKind)
    }

    /// Returns whether the text of an [`Identity`](crate::Identity) holds the digest of a value
    /// instead of the value.
    pub fn is_digest(&self) -> bool {
        matches!(self.0, NameErrorKind::Digest { .. })
    }
}
