//! JSON web tokens.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tollgate::Scope;

/// The keys and claims that make a JSON web token valid.
#[derive(Debug)]
pub(crate) struct Jwt {
    pub(crate) keys: Vec<JwtKey>,
    pub(crate) audience: String,
    pub(crate) issuer: Option<String>,
    /// The claim that names the tenant.
    pub(crate) tenant_claim: String,
    /// The tolerated difference between clocks, in seconds.
    pub(crate) leeway: u64,
}

/// A key that tokens are signed with.
#[derive(Clone)]
pub(crate) struct JwtKey {
    pub(crate) id: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
}

/// The user that a valid token names.
pub(super) struct TokenUser {
    /// `None` for the default tenant.
    pub(super) tenant: Option<String>,
    pub(super) subject: String,
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKey")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Jwt {
    /// Returns the user of a token, if the token is valid.
    pub(super) fn verify(&self, token: &str) -> Option<TokenUser> {
        let header = decode_header(token).ok()?;
        // Names of extensions that must be understood, and none is (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return None;
        }
        let may_be = |key: &&JwtKey| {
            let is_named = match (&key.id, &header.kid) {
                (Some(id), Some(said)) => id == said,
                _ => true,
            };
            // The key determines the algorithm. A token must not choose, or it could pass off a public
            // key as a secret (RFC 8725, section 3.1).
            is_named && key.algorithm == header.alg
        };
        let keys = self.keys.iter().filter(may_be);
        let mut claims = keys.filter_map(|key| self.claims(token, key));
        self.user(&claims.next()?)
    }

    fn claims(&self, token: &str, key: &JwtKey) -> Option<Map<String, Value>> {
        let mut validation = Validation::new(key.algorithm);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.set_audience(&[&self.audience]);
        validation.validate_nbf = true;
        validation.leeway = self.leeway;
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        Some(decode(token, &key.key, &validation).ok()?.claims)
    }

    fn user(&self, claims: &Map<String, Value>) -> Option<TokenUser> {
        let subject = claims.get("sub")?.as_str()?;
        let tenant = match claims.get(&self.tenant_claim) {
            // Only a valid tenant name can be part of a key in Redis.
            Some(claim) => Some(Scope::new(claim.as_str()?).ok()?.as_str().to_owned()),
            None => None,
        };
        (!subject.is_empty()).then(|| TokenUser {
            tenant,
            subject: subject.to_owned(),
        })
    }
}
