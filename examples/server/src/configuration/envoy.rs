//! Reads `[envoy]`, and rules in the form of Envoy ratelimit.
//!
//! Every field has the same meaning as in Envoy ratelimit. A field where Envoy ratelimit would
//! ignore it, such as `shadow_mode` in `rate_limit`, is an error.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};

use super::authentication::TokenReader;
use super::field::{Field, Table};
use super::sources::Sources;
use super::tree::{Result, Value};
use super::yaml::{PlainScalar, from_yaml};
use crate::authentication::Tokens;
use crate::envoy::{Amount, Level, Limit, PerUnit, Rule, Rules, Unit, Wildcard};

/// The settings of Envoy's rate limit service.
#[derive(Debug, Default)]
pub(crate) struct EnvoySettings {
    pub(crate) rules: Rules,
    /// Whether responses tell Envoy to add `x-ratelimit-*` headers.
    pub(crate) response_headers: bool,
    /// The tokens that Envoy may authenticate with.
    pub(crate) tokens: Tokens<()>,
}

/// Reads `[envoy]` and its files, whose paths are relative to `directory`.
pub(super) fn read(
    root: &Table<'_>,
    reader: &mut TokenReader,
    directory: &Path,
    sources: &mut Sources,
) -> Result<EnvoySettings> {
    let mut settings = EnvoySettings::default();
    let Some(field) = root.get("envoy") else {
        return Ok(settings);
    };
    let table = field.table(&["files", "domains", "response_headers", "tokens"])?;
    let headers = table.read("response_headers", Field::boolean)?;
    settings.response_headers = headers.unwrap_or_default();
    if let Some(field) = table.get("tokens") {
        reader.list(&field, &(), &mut settings.tokens)?;
    }
    if let Some(domains) = table.get("domains") {
        for domain in domains.list()? {
            read_domain(&domain, &mut settings.rules)?;
        }
    }
    if let Some(list) = table.get("files") {
        for field in list.list()? {
            let path = directory.join(field.text()?);
            let name = path.display().to_string();
            let text = sources
                .read(&path)
                .map_err(|error| field.error(format!("{name} cannot be read: {error}")))?;
            let tree = from_yaml(&text, &name)?;
            read_domain(&Field::root(&tree), &mut settings.rules)?;
        }
    }
    Ok(settings)
}

/// Adds the rules of a domain.
pub(crate) fn read_domain(field: &Field<'_>, rules: &mut Rules) -> Result<()> {
    let table = field.table(&["domain", "descriptors"])?;
    let domain = table.required("domain")?;
    let name = domain.non_empty_text()?;
    let level = match table.get("descriptors") {
        Some(descriptors) => level(&descriptors)?,
        None => Level::default(),
    };
    match rules.domains.insert(name.to_owned(), level) {
        None => Ok(()),
        Some(_) => Err(domain.error(format!("there is another domain {name:?}"))),
    }
}

fn level(field: &Field<'_>) -> Result<Level> {
    const KNOWN: [&str; 10] = [
        "key",
        "value",
        "rate_limit",
        "shadow_mode",
        "quota_mode",
        "share_threshold",
        "detailed_metric",
        "value_to_metric",
        "metadata",
        "descriptors",
    ];
    let mut level = Level::default();
    let mut known = HashSet::new();
    for field in field.list()? {
        let table = field.table(&KNOWN)?;
        let key = key(&table)?;
        // An empty value is the same as no value.
        let value = table.read("value", Field::text)?.unwrap_or_default();
        let rule = rule(&table, value)?;
        if !known.insert((key, value)) {
            return Err(field.error("there is another descriptor with this key and value here"));
        }
        let rules = level.0.entry(key.to_owned()).or_default();
        if value.is_empty() {
            rules.any = Some(Box::new(rule));
        } else if let Some(wildcard) = Wildcard::new(value) {
            rules.wildcards.push((wildcard, rule));
        } else {
            rules.exact.insert(value.to_owned(), rule);
        }
    }
    Ok(level)
}

fn key<'a>(table: &Table<'a>) -> Result<&'a str> {
    let field = table.required("key")?;
    let key = field.non_empty_text()?;
    if key.contains('*') {
        // Envoy ratelimit matches such a pattern against the key and the value together, so that a
        // client could select the rule of another key by its value.
        return Err(field.error("a `*` is a wildcard in a value only: move it there"));
    }
    Ok(key)
}

fn rule(table: &Table<'_>, value: &str) -> Result<Rule> {
    let flag = |name| Ok(table.read(name, boolean)?.unwrap_or_default());
    let share_threshold = flag("share_threshold")?;
    if share_threshold && !value.contains('*') {
        let field = table.required("share_threshold")?;
        return Err(
            field.error("only values with a `*` can share a count, and this value has no `*`")
        );
    }
    let mode = LimitMode {
        shadow: flag("shadow_mode")?,
        quota: flag("quota_mode")?,
        metadata: table.read("metadata", metadata)?.map(Arc::new),
    };
    let limit = table.read("rate_limit", |field| limit(field, mode))?;
    let next = table.read("descriptors", level)?;
    Ok(Rule {
        limit,
        share_threshold,
        detailed_metric: flag("detailed_metric")?,
        value_to_metric: flag("value_to_metric")?,
        next: next.unwrap_or_default(),
    })
}

/// The fields of a descriptor that belong to its limit.
struct LimitMode {
    shadow: bool,
    quota: bool,
    metadata: Option<Arc<Struct>>,
}

fn limit(field: &Field<'_>, mode: LimitMode) -> Result<Limit> {
    let known = ["unit", "requests_per_unit", "unlimited", "name", "replaces"];
    let table = field.table(&known)?;
    let name = table
        .read("name", Field::text)?
        .filter(|name| !name.is_empty());
    let mut replaces = Vec::new();
    if let Some(list) = table.get("replaces") {
        for item in list.list()? {
            let replaced = item.table(&["name"])?.required("name")?;
            let text = replaced.non_empty_text()?;
            if Some(text) == name {
                return Err(replaced.error("a limit cannot replace itself"));
            }
            replaces.push(text.to_owned());
        }
    }
    Ok(Limit {
        amount: amount(&table)?,
        name: name.map(str::to_owned),
        replaces,
        shadow: mode.shadow,
        quota_mode: mode.quota,
        metadata: mode.metadata,
    })
}

fn amount(table: &Table<'_>) -> Result<Amount> {
    let unlimited = table.read("unlimited", boolean)?.unwrap_or_default();
    let unit = |field: &Field<'_>| field.choice_ignoring_case(&Unit::NAMES);
    if unlimited {
        // Envoy ratelimit accepts text that is not a unit here.
        return match table.get("unit").filter(|field| unit(field).is_ok()) {
            Some(field) => Err(field.error("an unlimited rule cannot have a unit: remove it")),
            None => Ok(Amount::Unlimited),
        };
    }
    let unit = unit(&table.required("unit")?)?;
    // Without a number, Envoy ratelimit denies every request.
    let requests = table.read("requests_per_unit", number)?.unwrap_or_default();
    Ok(Amount::PerUnit(PerUnit::new(requests, unit)))
}

fn boolean(field: &Field<'_>) -> Result<bool> {
    match field.value() {
        Value::Plain(word) => match PlainScalar::new(word) {
            PlainScalar::Boolean(boolean) => Ok(boolean),
            _ => Err(field.unexpected("true or false")),
        },
        _ => field.boolean(),
    }
}

fn number(field: &Field<'_>) -> Result<u32> {
    let Value::Plain(word) = field.value() else {
        return field.number(0..=u32::MAX);
    };
    let number = match PlainScalar::new(word) {
        PlainScalar::Integer(integer) => u32::try_from(integer).ok(),
        _ => None,
    };
    number.ok_or_else(|| field.unexpected(&format!("an integer from 0 to {}", u32::MAX)))
}

/// Reads a table with arbitrary names and values.
fn metadata(field: &Field<'_>) -> Result<Struct> {
    let entries = field.entries()?.into_iter();
    let fields = entries.map(|(name, field)| Ok((name.to_owned(), metadata_value(&field)?)));
    Ok(Struct {
        fields: fields.collect::<Result<_>>()?,
    })
}

fn metadata_value(field: &Field<'_>) -> Result<prost_types::Value> {
    let kind = match field.value() {
        Value::Nothing => Kind::NullValue(0),
        Value::Boolean(boolean) => Kind::BoolValue(*boolean),
        Value::Integer(integer) => Kind::NumberValue(*integer as f64),
        Value::Other(kind) => {
            return Err(field.error(format!("{kind} must be written as a string, in quotes")));
        }
        Value::Text(text) => Kind::StringValue(text.clone()),
        Value::Plain(word) => match PlainScalar::new(word) {
            PlainScalar::Boolean(boolean) => Kind::BoolValue(boolean),
            PlainScalar::Integer(integer) => Kind::NumberValue(integer as f64),
            PlainScalar::Number(number) => Kind::NumberValue(number),
            PlainScalar::Text => Kind::StringValue(word.clone()),
        },
        Value::List(_) => Kind::ListValue(ListValue {
            values: field
                .list()?
                .iter()
                .map(metadata_value)
                .collect::<Result<_>>()?,
        }),
        Value::Table(_) => Kind::StructValue(metadata(field)?),
    };
    Ok(prost_types::Value { kind: Some(kind) })
}
