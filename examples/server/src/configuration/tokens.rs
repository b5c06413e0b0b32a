//! Reads the tokens of callers.

use std::collections::HashMap;

use super::reader::{Field, Result};
use crate::authentication::{TokenDigest, Tokens};

/// The least length of a token, in characters. A shorter one could be guessed.
const MIN_LENGTH: usize = 16;

/// Reads tokens, and remembers the place of each, so that no token stands for two callers.
#[derive(Default)]
pub(super) struct TokenReader(HashMap<TokenDigest, String>);

impl TokenReader {
    /// Adds the tokens of a list, all of which stand for the same caller.
    pub(super) fn list<T: Clone>(
        &mut self,
        field: &Field<'_>,
        stands_for: &T,
        tokens: &mut Tokens<T>,
    ) -> Result<()> {
        let list = field.list()?;
        if list.is_empty() {
            return Err(field.wrong("the list is empty: add a token, or remove it"));
        }
        for field in list {
            tokens.add(self.token(&field)?, stands_for.clone());
        }
        Ok(())
    }

    /// Reads a token, or its digest as `sha256:` and 64 hexadecimal digits. No error shows a token.
    pub(super) fn token(&mut self, field: &Field<'_>) -> Result<TokenDigest> {
        let secret = field.secret()?;
        let token = secret.reveal();
        let digest = match token.split_once(':') {
            Some((kind, digits)) if kind.eq_ignore_ascii_case("sha256") => {
                let digest = TokenDigest::from_hex(digits);
                digest
                    .ok_or_else(|| field.wrong("after `sha256:` must come 64 hexadecimal digits"))?
            }
            _ if token.chars().any(|character| !character.is_ascii_graphic()) => {
                let problem = "must be visible ASCII without spaces, since a header carries it";
                return Err(field.wrong(problem));
            }
            _ if token.len() < MIN_LENGTH => {
                return Err(field.wrong(format!(
                    "must have {MIN_LENGTH} characters or more: make one by `openssl rand -hex 32`"
                )));
            }
            _ => TokenDigest::of(token),
        };
        if digest == TokenDigest::of("") {
            return Err(field.wrong("is the digest of an empty token"));
        }
        if let Some(place) = self.0.insert(digest, field.place()) {
            let problem = format!("is the same token as {place}: give each caller its own");
            return Err(field.wrong(problem));
        }
        Ok(digest)
    }
}
