use super::caller::Caller;
use super::given_limits::GivenLimits;
use super::jwt::Jwt;
use super::tokens::Tokens;
use crate::decide::Refusal;

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
        self.jwt.as_ref()?.verify(token)
    }
}

/// The token in an `Authorization` header.
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
