//! The configured tokens, as digests.

use std::collections::HashMap;
use std::fmt;

use sha2::{Digest, Sha256};

/// The SHA-256 digest of a token. Only digests are stored and compared, so the duration of a
/// comparison reveals nothing about a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenDigest([u8; 32]);

/// Tokens, each with a value of type `T` for its bearer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tokens<T>(HashMap<TokenDigest, T>);

impl TokenDigest {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Parses 64 hexadecimal digits.
    pub(crate) fn from_hex(digits: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl<T> Tokens<T> {
    pub(crate) fn add(&mut self, token: TokenDigest, bearer: T) {
        self.0.insert(token, bearer);
    }

    pub(crate) fn get(&self, token: &str) -> Option<&T> {
        self.0.get(&TokenDigest::of(token))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> fmt::Debug for Tokens<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}
