//! Reads limits: a quota's text, the name of limits that are written elsewhere, or a table of
//! quotas by the names of their policies.

use std::collections::HashMap;

use tollgate::{Limits, Policy, Quota, Scope};

use super::authentication::TokenReader;
use super::field::{Field, Table, check_name};
use super::tree::{Result, Value};
use crate::authentication::Tokens;
use crate::limits::{Catalog, Tenant};

/// Limits by their names in `[limits]`.
pub(super) type Named = HashMap<String, Limits>;

pub(super) const TABLES: [&str; 4] = ["default", "limits", "tiers", "tenants"];

const TENANT: [&str; 4] = ["tier", "limit", "keys", "tokens"];

/// Returns the limits, and the tenants by their tokens.
pub(super) fn read(
    root: &Table<'_>,
    reader: &mut TokenReader,
) -> Result<(Catalog, Tokens<String>)> {
    let named = match root.get("limits") {
        Some(field) => named_limits(&field)?,
        None => Named::new(),
    };
    let mut catalog = Catalog::default();
    if let Some(default) = root.get("default") {
        let default = default.table(&["tenant", "limit"])?;
        if let Some(limits) = default.read("limit", |field| limits(field, &named))? {
            catalog.default = limits;
        }
        if let Some(tenant) = default.read("tenant", scope)? {
            catalog.default_tenant = tenant;
        }
    }
    if let Some(tiers) = root.get("tiers") {
        for (name, field) in tiers.entries()? {
            check_name(name, &field)?;
            catalog
                .tiers
                .insert(name.to_owned(), limits(&field, &named)?);
        }
    }
    let mut tokens = Tokens::default();
    if let Some(tenants) = root.get("tenants") {
        for (name, field) in tenants.entries()? {
            let tenant = tenant(name, &field, &catalog, &named)?;
            if let Some(list) = field.table(&TENANT)?.get("tokens") {
                reader.list(&list, &name.to_owned(), &mut tokens)?;
            }
            catalog.tenants.insert(name.to_owned(), tenant);
        }
    }
    Ok((catalog, tokens))
}

/// Reads `[limits]`. No limits refer to others there.
fn named_limits(field: &Field<'_>) -> Result<Named> {
    let mut named = Named::new();
    for (name, field) in field.entries()? {
        check_name(name, &field)?;
        named.insert(name.to_owned(), limits(&field, &Named::new())?);
    }
    Ok(named)
}

fn tenant(name: &str, field: &Field<'_>, catalog: &Catalog, named: &Named) -> Result<Tenant> {
    let scope = Scope::new(name).map_err(|error| field.wrong(error))?;
    let table = field.table(&TENANT)?;
    let tier = table.read("tier", |field| {
        let tier = field.text()?;
        match catalog.tiers.contains_key(tier) {
            true => Ok(tier.to_owned()),
            false => Err(field.wrong(format!("there is no tier {tier:?}: add it to [tiers]"))),
        }
    })?;
    let mut keys = HashMap::new();
    if let Some(field) = table.get("keys") {
        for (key, field) in field.entries()? {
            if matches!(key, "" | "user:") {
                return Err(field.wrong("no request has this key: remove it"));
            }
            keys.insert(key.to_owned(), limits(&field, named)?);
        }
    }
    Ok(Tenant {
        limits: table.read("limit", |field| limits(field, named))?,
        scope,
        tier,
        keys,
    })
}

fn scope(field: &Field<'_>) -> Result<Scope> {
    Scope::new(field.text()?).map_err(|error| field.wrong(error))
}

fn limits(field: &Field<'_>, named: &Named) -> Result<Limits> {
    match field.value() {
        // Every quota has a slash, and no name has.
        Value::Text(name) | Value::Plain(name) if !name.contains('/') => {
            named.get(name).cloned().ok_or_else(|| {
                field.wrong(format!(
                    "{name:?} is neither a quota, such as `100/1m burst 20`, nor a name in [limits]"
                ))
            })
        }
        Value::Text(_) | Value::Plain(_) => Ok(quota(field)?.into()),
        Value::Table(_) => {
            let policies = field.entries()?.into_iter();
            let policies = policies.map(|(name, field)| Ok(Policy::new(name, quota(&field)?)));
            let policies = policies.collect::<Result<Vec<_>>>()?;
            Limits::new(policies).map_err(|error| field.wrong(error))
        }
        other => Err(field.wrong(format!(
            "must be a quota, such as `100/1m`, or a table of them, not {}",
            other.kind()
        ))),
    }
}

fn quota(field: &Field<'_>) -> Result<Quota> {
    field.text()?.parse().map_err(|error| field.wrong(error))
}
