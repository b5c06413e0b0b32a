//! Reads how callers and administrators authenticate: `[authentication]`, `[admin]`, and the tokens of
//! all sections.

use std::collections::HashMap;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};

use super::field::{Field, Table, check_name};
use super::tree::{Result, Value};
use crate::authentication::{Authenticator, GivenLimits, Jwt, JwtKey, TokenDigest, Tokens};

/// The least length of a key for HS256, in bytes (RFC 7518, section 3.2).
const SHORTEST_SECRET: usize = 32;

/// The default for `leeway`: how much clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);

/// The greatest `leeway`. A larger one would accept tokens long after they have expired.
const MAX_LEEWAY: Duration = Duration::from_secs(60 * 60);

/// Reads the section, for a server with or without tokens of Envoy. `is_local` says whether only this
/// machine reaches the listeners.
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
        given_limits: GivenLimits::default(),
    };
    let Some(field) = root.get("authentication") else {
        authenticator.required = authenticator.is_configured();
        let is_configured = authenticator.required || has_envoy_tokens;
        authenticator.given_limits = default_given_limits(is_configured, is_local);
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
                return Err(field.wrong(problem));
            }
            required => required,
        },
    };
    let given_limits = table.read("callers_may_give_limits", |field| {
        field.choice(&[
            ("nobody", GivenLimits::Nobody),
            ("tenants", GivenLimits::Tenants),
            ("all", GivenLimits::All),
        ])
    })?;
    let default = default_given_limits(is_configured || has_envoy_tokens, is_local);
    authenticator.given_limits = given_limits.unwrap_or(default);
    Ok(authenticator)
}

/// Callers that are not known give limits only where they are on this machine, as in a first try.
fn default_given_limits(is_configured: bool, is_local: bool) -> GivenLimits {
    match is_configured {
        true => GivenLimits::Tenants,
        false if is_local => GivenLimits::All,
        false => GivenLimits::Nobody,
    }
}

fn jwt(field: &Field<'_>) -> Result<Jwt> {
    let known = ["audience", "issuer", "tenant_claim", "leeway", "keys"];
    let table = field.table(&known)?;
    let list = table.required("keys")?;
    let keys = list.list()?.iter().map(key).collect::<Result<Vec<_>>>()?;
    if keys.is_empty() {
        return Err(list.wrong("the list is empty: add a key"));
    }
    let issuer = table.read("issuer", Field::filled_text)?;
    let tenant_claim = table.read("tenant_claim", Field::filled_text)?;
    let leeway = table.read("leeway", |field| match field.duration_or_zero()? {
        leeway if leeway > MAX_LEEWAY => Err(field.wrong("must not be longer than 1h")),
        leeway => Ok(leeway),
    })?;
    Ok(Jwt {
        keys,
        audience: table.required("audience")?.filled_text()?.to_owned(),
        issuer: issuer.map(str::to_owned),
        tenant_claim: tenant_claim.unwrap_or("tenant").to_owned(),
        leeway: leeway.unwrap_or(LEEWAY).as_secs(),
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
        return Err(field.wrong(format!("keys for this algorithm have a `{wanted}` instead")));
    }
    let field = table.required(wanted)?;
    let text = field.secret()?;
    let key = match algorithm {
        Algorithm::HS256 if text.reveal().len() < SHORTEST_SECRET => {
            let problem = format!("must have {SHORTEST_SECRET} bytes or more");
            return Err(field.wrong(problem));
        }
        Algorithm::HS256 => DecodingKey::from_secret(text.reveal().as_bytes()),
        Algorithm::RS256 => public(&field, DecodingKey::from_rsa_pem(text.reveal().as_bytes()))?,
        _ => public(&field, DecodingKey::from_ec_pem(text.reveal().as_bytes()))?,
    };
    let id = table.read("id", Field::filled_text)?;
    Ok(JwtKey {
        id: id.map(str::to_owned),
        algorithm,
        key,
    })
}

fn public(
    field: &Field<'_>,
    key: std::result::Result<DecodingKey, jsonwebtoken::errors::Error>,
) -> Result<DecodingKey> {
    key.map_err(|_| field.wrong("must be a public key for this algorithm in PEM"))
}

/// Returns the names of the administrators by their tokens. Without `[admin]` the table is empty, and
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
        return Err(field.wrong(problem));
    }
    let entries = field.entries()?;
    if entries.is_empty() {
        return Err(field.wrong("the table is empty: add a name and its token, or remove [admin]"));
    }
    for (name, field) in entries {
        check_name(name, &field)?;
        tokens.add(reader.token(&field)?, name.to_owned());
    }
    Ok(tokens)
}

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
