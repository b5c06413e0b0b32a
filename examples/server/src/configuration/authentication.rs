//! Reads how callers and administrators authenticate: `[authentication]`, `[admin]`, and the tokens
//! of all sections.

use std::collections::HashMap;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};

use super::field::{Field, Table, check_name};
use super::tree::{Result, Value};
use crate::authentication::{
    Authenticator, CallerLimitPolicy, JwtKey, JwtVerifier, TokenDigest, Tokens,
};

/// The minimum length of a key for HS256, in bytes (RFC 7518, section 3.2).
const MIN_SECRET_LENGTH: usize = 32;

/// The default of `leeway`, the tolerated clock skew.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);

/// The maximum of `leeway`, so that tokens are not accepted long after they have expired.
const MAX_LEEWAY: Duration = Duration::from_secs(60 * 60);

/// Reads `[authentication]`. `is_local` says whether all listeners are on loopback addresses.
pub(super) fn read(
    root: &Table<'_>,
    tokens: Tokens<String>,
    has_envoy_tokens: bool,
    is_local: bool,
) -> Result<Authenticator> {
    let mut authenticator = Authenticator {
        required: false,
        tokens,
        jwt: None,
        caller_limits: CallerLimitPolicy::default(),
    };
    let Some(field) = root.get("authentication") else {
        authenticator.required = authenticator.is_configured();
        let is_configured = authenticator.required || has_envoy_tokens;
        authenticator.caller_limits = default_caller_limit_policy(is_configured, is_local);
        return Ok(authenticator);
    };
    let table = field.table(&["required", "jwt", "callers_may_give_limits"])?;
    authenticator.jwt = table.read("jwt", jwt)?;
    let is_configured = authenticator.is_configured();
    authenticator.required = match table.get("required") {
        None => is_configured,
        Some(field) => match field.boolean()? {
            true if !is_configured => {
                let problem = "no caller could authenticate: give a tenant tokens, or set up \
                               [authentication.jwt]";
                return Err(field.error(problem));
            }
            required => required,
        },
    };
    let caller_limits = table.read("callers_may_give_limits", |field| {
        field.choice(&[
            ("nobody", CallerLimitPolicy::Nobody),
            ("tenants", CallerLimitPolicy::Tenants),
            ("all", CallerLimitPolicy::All),
        ])
    })?;
    let default = default_caller_limit_policy(is_configured || has_envoy_tokens, is_local);
    authenticator.caller_limits = caller_limits.unwrap_or(default);
    Ok(authenticator)
}

/// Returns the default of `callers_may_give_limits`. Unauthenticated callers may send limits only
/// from this machine, for a first try.
fn default_caller_limit_policy(is_configured: bool, is_local: bool) -> CallerLimitPolicy {
    match is_configured {
        true => CallerLimitPolicy::Tenants,
        false if is_local => CallerLimitPolicy::All,
        false => CallerLimitPolicy::Nobody,
    }
}

fn jwt(field: &Field<'_>) -> Result<JwtVerifier> {
    let known = ["audience", "issuer", "tenant_claim", "leeway", "keys"];
    let table = field.table(&known)?;
    let list = table.required("keys")?;
    let keys = list.list()?.iter().map(key).collect::<Result<Vec<_>>>()?;
    if keys.is_empty() {
        return Err(list.error("the list is empty: add a key"));
    }
    let issuer = table.read("issuer", Field::non_empty_text)?;
    let tenant_claim = table.read("tenant_claim", Field::non_empty_text)?;
    let leeway = table.read("leeway", |field| match field.duration_or_zero()? {
        leeway if leeway > MAX_LEEWAY => Err(field.unexpected("at most 1h")),
        leeway => Ok(leeway),
    })?;
    Ok(JwtVerifier {
        keys,
        audience: table.required("audience")?.non_empty_text()?.to_owned(),
        issuer: issuer.map(str::to_owned),
        tenant_claim: tenant_claim.unwrap_or("tenant").to_owned(),
        leeway: leeway.unwrap_or(DEFAULT_LEEWAY).as_secs(),
    })
}

fn key(field: &Field<'_>) -> Result<JwtKey> {
    let table = field.table(&["id", "algorithm", "secret", "public_key"])?;
    let algorithm = table.required("algorithm")?.choice(&[
        ("HS256", Algorithm::HS256),
        ("RS256", Algorithm::RS256),
        ("ES256", Algorithm::ES256),
    ])?;
    let (wanted, other) = match algorithm {
        Algorithm::HS256 => ("secret", "public_key"),
        _ => ("public_key", "secret"),
    };
    if let Some(field) = table.get(other) {
        return Err(field.error(format!("keys for this algorithm have a `{wanted}` instead")));
    }
    let field = table.required(wanted)?;
    let text = field.secret()?;
    let key = match algorithm {
        Algorithm::HS256 if text.reveal().len() < MIN_SECRET_LENGTH => {
            let problem = format!("must have {MIN_SECRET_LENGTH} bytes or more");
            return Err(field.error(problem));
        }
        Algorithm::HS256 => DecodingKey::from_secret(text.reveal().as_bytes()),
        Algorithm::RS256 => {
            check_public_key(&field, DecodingKey::from_rsa_pem(text.reveal().as_bytes()))?
        }
        _ => check_public_key(&field, DecodingKey::from_ec_pem(text.reveal().as_bytes()))?,
    };
    let id = table.read("id", Field::non_empty_text)?;
    Ok(JwtKey {
        id: id.map(str::to_owned),
        algorithm,
        key,
    })
}

fn check_public_key(
    field: &Field<'_>,
    key: std::result::Result<DecodingKey, jsonwebtoken::errors::Error>,
) -> Result<DecodingKey> {
    key.map_err(|_| {
        field.error(
            "must be the text of a public key in PEM (`-----BEGIN PUBLIC KEY-----…`), not a path: for \
             RS256 an RSA key of 2048 to 8192 bits, for ES256 a P-256 key",
        )
    })
}

/// Reads the tokens of administrators, with their names. Without `[admin]`, the table is empty, and
/// the server has no admin API.
pub(super) fn read_admin_tokens(
    root: &Table<'_>,
    reader: &mut TokenReader,
) -> Result<Tokens<String>> {
    let mut tokens = Tokens::default();
    let Some(admin) = root.get("admin") else {
        return Ok(tokens);
    };
    let field = admin.table(&["tokens"])?.required("tokens")?;
    if let Value::List(_) = field.value() {
        let problem = "must be a table of names and tokens, not a list: write `[admin.tokens]`, and \
                       below it a line such as `alice = \"sha256:…\"` for each token";
        return Err(field.error(problem));
    }
    let entries = field.entries()?;
    if entries.is_empty() {
        return Err(field.error("the table is empty: add a name and its token, or remove [admin]"));
    }
    for (name, field) in entries {
        check_name(name, &field)?;
        tokens.add(reader.token(&field)?, name.to_owned());
    }
    Ok(tokens)
}

/// The minimum length of a token, in characters. A shorter token could be guessed.
const MIN_TOKEN_LENGTH: usize = 16;

/// Reads tokens, and rejects a token that has been read before, so that no two callers share one.
#[derive(Default)]
pub(super) struct TokenReader(HashMap<TokenDigest, String>);

impl TokenReader {
    /// Adds the tokens of a list, which have the same bearer.
    pub(super) fn list<T: Clone>(
        &mut self,
        field: &Field<'_>,
        bearer: &T,
        tokens: &mut Tokens<T>,
    ) -> Result<()> {
        let list = field.list()?;
        if list.is_empty() {
            return Err(field.error("the list is empty: add a token, or remove it"));
        }
        for field in list {
            tokens.add(self.token(&field)?, bearer.clone());
        }
        Ok(())
    }

    /// Reads a token, or its digest as `sha256:` and 64 hexadecimal digits. Errors do not show the
    /// token.
    pub(super) fn token(&mut self, field: &Field<'_>) -> Result<TokenDigest> {
        let secret = field.secret()?;
        let token = secret.reveal();
        let digest = match token.split_once(':') {
            Some((kind, digits)) if kind.eq_ignore_ascii_case("sha256") => {
                let digest = TokenDigest::from_hex(digits);
                digest
                    .ok_or_else(|| field.error("after `sha256:` must come 64 hexadecimal digits"))?
            }
            _ if token.chars().any(|character| !character.is_ascii_graphic()) => {
                let problem = "must be visible ASCII without spaces, since a header carries it";
                return Err(field.error(problem));
            }
            _ if token.len() < MIN_TOKEN_LENGTH => {
                return Err(field.error(format!(
                    "must have {MIN_TOKEN_LENGTH} characters or more: make one by \
                     `openssl rand -hex 32`"
                )));
            }
            _ => TokenDigest::of(token),
        };
        if digest == TokenDigest::of("") {
            return Err(field.error("is the digest of an empty token"));
        }
        if let Some(location) = self.0.insert(digest, field.location()) {
            let problem = format!("is the same token as {location}: give each caller its own");
            return Err(field.error(problem));
        }
        Ok(digest)
    }
}
