use super::jwt::{JwtVerifier, TokenUser};
use super::tokens::Tokens;
use crate::error::ApiError;

/// The sender of a request, as authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A caller without a token, where no token is required. It may check every tenant and key.
    Anonymous,
    /// The bearer of an admin token. It may act on every tenant and key.
    Operator,
    /// The bearer of a tenant's token. It may check every key of the tenant.
    Tenant(String),
    /// The bearer of an Envoy token. It may check every descriptor.
    Envoy,
    /// The bearer of a JSON web token. It may check its own key only.
    User {
        /// `None` stands for the default tenant.
        tenant: Option<String>,
        /// The claim `sub`.
        subject: String,
    },
}

/// Which principals may send limits with a request, instead of the configured limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CallerLimitPolicy {
    #[default]
    Nobody,
    /// Tenants, and an Envoy with a token.
    Tenants,
    /// Also anonymous callers, and users, which can thereby escape their configured limits.
    All,
}

impl CallerLimitPolicy {
    /// Returns whether the principal may send limits.
    fn allows(self, principal: &Principal) -> bool {
        match principal {
            Principal::Operator => true,
            Principal::Tenant(_) | Principal::Envoy => self != Self::Nobody,
            Principal::Anonymous | Principal::User { .. } => self == Self::All,
        }
    }
}

/// Authenticates callers.
#[derive(Debug, Default)]
pub(crate) struct Authenticator {
    pub(crate) required: bool,
    /// The tokens of tenants, with the tenants' names.
    pub(crate) tokens: Tokens<String>,
    pub(crate) jwt: Option<JwtVerifier>,
    pub(crate) caller_limits: CallerLimitPolicy,
}

impl Authenticator {
    /// Returns whether a token or a key is configured, so that callers can authenticate.
    pub(crate) fn is_configured(&self) -> bool {
        !self.tokens.is_empty() || self.jwt.is_some()
    }

    /// Returns the principal of an `Authorization` header.
    pub(crate) fn authenticate(&self, header: Option<&str>) -> Result<Principal, ApiError> {
        let header = match header {
            Some(header) if self.is_configured() => header,
            _ if self.required => {
                let problem = "authentication is required: send `Authorization: Bearer <token>`";
                return Err(ApiError::unauthenticated(problem));
            }
            _ => return Ok(Principal::Anonymous),
        };
        let principal = bearer_token(header).and_then(|token| self.principal(token));
        principal.ok_or_else(|| ApiError::unauthenticated("the token is invalid or has expired"))
    }

    /// Returns an error unless the principal may send limits with a request.
    pub(crate) fn check_caller_limits(&self, principal: &Principal) -> Result<(), ApiError> {
        match self.caller_limits.allows(principal) {
            true => Ok(()),
            false => Err(ApiError::forbidden(
                "this caller must not give limits: leave them out, so that the configured ones apply \
                 (or change `callers_may_give_limits` in [authentication])",
            )),
        }
    }

    fn principal(&self, token: &str) -> Option<Principal> {
        if let Some(tenant) = self.tokens.get(token) {
            return Some(Principal::Tenant(tenant.clone()));
        }
        let TokenUser { tenant, subject } = self.jwt.as_ref()?.verify(token)?;
        Some(Principal::User { tenant, subject })
    }
}

/// Returns the token of an `Authorization` header with the scheme `Bearer`.
pub(crate) fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
