//! Verification of JSON web tokens.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tollgate::Scope;

/// Verifies JSON web tokens: their signature, their validity in time, their audience and their issuer.
#[derive(Debug)]
pub(crate) struct JwtVerifier {
    pub(crate) keys: Vec<JwtKey>,
    pub(crate) audience: String,
    pub(crate) issuer: Option<String>,
    /// The claim that names the tenant.
    pub(crate) tenant_claim: String,
    /// The tolerated difference between clocks, in seconds.
    pub(crate) leeway: u64,
}

/// A key that verifies the signature of tokens.
#[derive(Clone)]
pub(crate) struct JwtKey {
    pub(crate) id: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
}

/// The user that a valid token names.
pub(super) struct TokenUser {
    /// `None` stands for the default tenant.
    pub(super) tenant: Option<String>,
    /// The claim `sub`.
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

impl JwtVerifier {
    /// Returns the user of a token, if the token is valid.
    pub(super) fn verify(&self, token: &str) -> Option<TokenUser> {
        let header = decode_header(token).ok()?;
        // `crit` names extensions that a recipient must support (RFC 7515, section 4.1.11). The
        // server supports no extension.
        if header.crit.is_some() {
            return None;
        }
        let is_candidate = |key: &&JwtKey| {
            let id_matches = match (&key.id, &header.kid) {
                (Some(id), Some(kid)) => id == kid,
                _ => true,
            };
            // The key determines the algorithm. A token must not choose it: a token that says HS256
            // could be signed with a public key as the secret (RFC 8725, section 3.1).
            id_matches && key.algorithm == header.alg
        };
        let keys = self.keys.iter().filter(is_candidate);
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
            // The name becomes part of a key in Redis.
            Some(claim) => Some(Scope::new(claim.as_str()?).ok()?.as_str().to_owned()),
            None => None,
        };
        (!subject.is_empty()).then(|| TokenUser {
            tenant,
            subject: subject.to_owned(),
        })
    }
}
