//! Authentication: a tenant by its token, or a user by a JSON web token.
//!
//! - `authenticator`: finds the caller of a request, and says whether it may give limits of its own.
//! - `jwt`: verifies JSON web tokens.
//! - `tokens`: the configured tokens, as digests.

mod authenticator;
mod jwt;
mod tokens;

pub(crate) use authenticator::{Authenticator, Caller, GivenLimits, bearer};
pub(crate) use jwt::{Jwt, JwtKey};
pub(crate) use tokens::{TokenDigest, Tokens};
