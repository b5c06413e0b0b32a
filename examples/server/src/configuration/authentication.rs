//! Reads how callers authenticate.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};

use super::reader::{Field, Result, Table};
use crate::authentication::{Authenticator, GivenLimits, Jwt, JwtKey, Tokens};

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
