//! Reads `[limits]`, `[default]`, `[tiers]` and `[tenants]`.
//!
//! Limits are the text of a quota, a name in `[limits]`, or a table of quotas by the names of their
//! policies.

use std::collections::HashMap;

use tollgate::{Limits, MAX_POLICIES, Policy, Quota, Scope};

use super::authentication::TokenReader;
use super::field::{Field, Table, check_name};
use super::toml::syntax_error;
use super::tree::{Result, Value};
use crate::authentication::Tokens;
use crate::limits::{ConfiguredLimits, Tenant, invalid_tenant};

/// Limits by their names in `[limits]`.
type NamedLimits = HashMap<String, Limits>;

/// The names of the tables that [`read`] reads.
pub(super) const TABLES: [&str; 4] = ["default", "limits", "tiers", "tenants"];

const TENANT_FIELDS: [&str; 4] = ["tier", "limit", "keys", "tokens"];

/// Returns the configured limits, and the tokens of tenants with the tenants' names.
pub(super) fn read(
    root: &Table<'_>,
    reader: &mut TokenReader,
) -> Result<(ConfiguredLimits, Tokens<String>)> {
    let named = match root.get("limits") {
        Some(field) => named_limits(&field)?,
        None => NamedLimits::new(),
    };
    let mut configured_limits = ConfiguredLimits::default();
    if let Some(default) = root.get("default") {
        let default = default.table(&["tenant", "limit"])?;
        if let Some(limits) = default.read("limit", |field| limits(field, &named))? {
            configured_limits.default = limits;
        }
        if let Some(tenant) = default.read("tenant", scope)? {
            configured_limits.default_tenant = tenant;
        }
    }
    if let Some(tiers) = root.get("tiers") {
        for (name, field) in tiers.entries()? {
            check_name(name, &field)?;
            configured_limits
                .tiers
                .insert(name.to_owned(), limits(&field, &named)?);
        }
    }
    let mut tokens = Tokens::default();
    if let Some(tenants) = root.get("tenants") {
        for (name, field) in tenants.entries()? {
            let tenant = tenant(name, &field, &configured_limits, &named)?;
            if let Some(list) = field.table(&TENANT_FIELDS)?.get("tokens") {
                reader.list(&list, &name.to_owned(), &mut tokens)?;
            }
            configured_limits.tenants.insert(name.to_owned(), tenant);
        }
    }
    Ok((configured_limits, tokens))
}

/// Reads `[limits]`, in which limits cannot refer to other names.
fn named_limits(field: &Field<'_>) -> Result<NamedLimits> {
    let mut named = NamedLimits::new();
    for (name, field) in field.entries()? {
        check_name(name, &field)?;
        named.insert(name.to_owned(), limits(&field, &NamedLimits::new())?);
    }
    Ok(named)
}

fn tenant(
    name: &str,
    field: &Field<'_>,
    configured_limits: &ConfiguredLimits,
    named: &NamedLimits,
) -> Result<Tenant> {
    let scope = Scope::new(name).map_err(|_| field.error(invalid_tenant(name)))?;
    let table = field.table(&TENANT_FIELDS)?;
    let tier = table.read("tier", |field| {
        let tier = field.text()?;
        match configured_limits.tiers.contains_key(tier) {
            true => Ok(tier.to_owned()),
            false => Err(field.error(format!("there is no tier {tier:?}: add it to [tiers]"))),
        }
    })?;
    let mut keys = HashMap::new();
    if let Some(field) = table.get("keys") {
        for (key, field) in field.entries()? {
            if matches!(key, "" | "user:") {
                return Err(field.error("no request has this key: remove it"));
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
    let name = field.text()?;
    Scope::new(name).map_err(|_| field.error(invalid_tenant(name)))
}

fn limits(field: &Field<'_>, named: &NamedLimits) -> Result<Limits> {
    if let Value::Plain(text) = field.value()
        && let Some(problem) = syntax_error(text)
    {
        return Err(field.error(problem));
    }
    match field.value() {
        // A quota contains a slash, and a name does not.
        Value::Text(name) | Value::Plain(name) if !name.contains('/') => {
            named.get(name).cloned().ok_or_else(|| {
                field.error(format!(
                    "{name:?} is neither a quota, such as `100/1m burst 20`, nor a name in [limits]"
                ))
            })
        }
        Value::Text(_) | Value::Plain(_) => Ok(quota(field)?.into()),
        Value::Table(_) => {
            let policies = field.entries()?.into_iter();
            let policies = policies.map(|(name, field)| Ok(Policy::new(name, quota(&field)?)));
            let policies = policies.collect::<Result<Vec<_>>>()?;
            let count = policies.len();
            Limits::new(policies).map_err(|error| match error.is_policy_count() {
                true => field.error(format!(
                    "holds {count} quotas: write 1 to {MAX_POLICIES} in one table"
                )),
                false => field.error(error),
            })
        }
        other => Err(field.error(format!(
            "must be a quota, such as `100/1m`, or a table of them, not {}",
            other.kind()
        ))),
    }
}

fn quota(field: &Field<'_>) -> Result<Quota> {
    let quota: Quota = field.text()?.parse().map_err(|error| field.error(error))?;
    // The caller would have to wait, or to say when its request has ended.
    match quota.queued() > 0 || quota.reserved_for().is_some() {
        true => Err(field.error(format!(
            "`{quota}` cannot be served: the server only decides, so leave out `queue`, `reserve` and \
             `concurrent`"
        ))),
        false => Ok(quota),
    }
}
