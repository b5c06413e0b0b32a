use super::jwt::{Jwt, TokenUser};
use super::tokens::Tokens;
use crate::error::Refusal;

/// Authenticates callers.
#[derive(Debug, Default)]
pub(crate) struct Authenticator {
    pub(crate) required: bool,
    /// The tokens of tenants, with the tenants' names.
    pub(crate) tokens: Tokens<String>,
    pub(crate) jwt: Option<Jwt>,
    pub(crate) given_limits: GivenLimits,
}

impl Authenticator {
    /// Whether there is a token or a key by which a caller can authenticate.
    pub(crate) fn is_configured(&self) -> bool {
        !self.tokens.is_empty() || self.jwt.is_some()
    }

    /// The caller that an `Authorization` header authenticates.
    pub(crate) fn authenticate(&self, header: Option<&str>) -> Result<Caller, Refusal> {
        let header = match header {
            Some(header) if self.is_configured() => header,
            _ if self.required => {
                let problem = "authentication is required: send `Authorization: Bearer <token>`";
                return Err(Refusal::unauthenticated(problem));
            }
            _ => return Ok(Caller::Anybody),
        };
        let caller = bearer(header).and_then(|token| self.caller(token));
        caller.ok_or_else(|| Refusal::unauthenticated("the token is invalid or has expired"))
    }

    /// Refuses a request with limits of the caller's own, unless this caller may give them.
    pub(crate) fn check_given_limits(&self, caller: &Caller) -> Result<(), Refusal> {
        match self.given_limits.may(caller) {
            true => Ok(()),
            false => Err(Refusal::not_allowed(
                "this caller must not give limits: leave them out, so that the configured ones apply \
                 (or change `callers_may_give_limits` in [authentication])",
            )),
        }
    }

    fn caller(&self, token: &str) -> Option<Caller> {
        if let Some(tenant) = self.tokens.get(token) {
            return Some(Caller::Tenant(tenant.clone()));
        }
        let TokenUser { tenant, subject } = self.jwt.as_ref()?.verify(token)?;
        Some(Caller::User { tenant, subject })
    }
}

/// The token in an `Authorization` header.
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A caller without a token, where none is required: asks for any tenant and key.
    Anybody,
    /// The bearer of a token of the admin API: acts on any tenant and key.
    Operator,
    /// The bearer of a tenant's token: asks for any key of the tenant.
    Tenant(String),
    /// The bearer of one of Envoy's tokens: asks for any descriptor.
    Envoy,
    /// The bearer of a JSON web token: asks for its own key only.
    User {
        /// The tenant; the default one if `None`.
        tenant: Option<String>,
        subject: String,
    },
}

/// Which callers may give limits of their own, instead of the configured ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GivenLimits {
    #[default]
    Nobody,
    /// Bearers of a tenant's token, and an Envoy that shows a token.
    Tenants,
    /// Also callers without a token, and bearers of JSON web tokens, which thereby escape the limits
    /// that are meant for them.
    All,
}

impl GivenLimits {
    /// Whether this caller may.
    pub(crate) fn may(self, caller: &Caller) -> bool {
        match caller {
            Caller::Operator => true,
            Caller::Tenant(_) | Caller::Envoy => self != Self::Nobody,
            Caller::Anybody | Caller::User { .. } => self == Self::All,
        }
    }
}
