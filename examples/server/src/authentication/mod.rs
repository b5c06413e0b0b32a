//! Authentication of callers, by tokens and JSON web tokens.
//!
//! - `authenticator`: finds the [`Principal`] of a request, and checks whether it may send limits.
//! - `jwt`: verifies JSON web tokens.
//! - `tokens`: the configured tokens, as digests.

mod authenticator;
mod jwt;
mod tokens;

pub(crate) use authenticator::{Authenticator, CallerLimitPolicy, Principal, bearer_token};
pub(crate) use jwt::{JwtKey, JwtVerifier};
pub(crate) use tokens::{TokenDigest, Tokens};
