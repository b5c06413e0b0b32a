//! Tokens that are known beforehand.

use std::collections::HashMap;
use std::fmt;

use sha2::{Digest, Sha256};

/// Tokens, each with what it stands for. Only digests are kept, and what is compared is digests: how
/// long that takes says nothing of a token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tokens<T>(HashMap<[u8; 32], T>);

/// What begins with `sha256:` and is no digest.
#[derive(Debug)]
pub(crate) struct BadDigest;

impl<T> Tokens<T> {
    /// Adds a token, or its digest as `sha256:` and 64 hexadecimal digits.
    pub(crate) fn add(&mut self, token: &str, stands_for: T) -> Result<(), BadDigest> {
        let digest = match token.strip_prefix("sha256:") {
            Some(digits) => from_hex(digits).ok_or(BadDigest)?,
            None => digest(token),
        };
        self.0.insert(digest, stands_for);
        Ok(())
    }

    pub(crate) fn get(&self, token: &str) -> Option<&T> {
        self.0.get(&digest(token))
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

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn from_hex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
