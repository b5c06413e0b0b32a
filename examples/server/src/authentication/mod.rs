//! Authentication: a tenant by its token, or a user by a JSON web token.

mod authenticator;
mod caller;
mod given_limits;
mod jwt;
mod tokens;

pub(crate) use authenticator::{Authenticator, bearer};
pub(crate) use caller::Caller;
pub(crate) use given_limits::GivenLimits;
pub(crate) use jwt::{Jwt, JwtKey};
pub(crate) use tokens::{TokenDigest, Tokens};
