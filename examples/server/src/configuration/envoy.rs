//! Reads `[envoy]`, and rules in the form of Envoy ratelimit.
//!
//! Every field that Envoy ratelimit reads has the same meaning here. A field in a place where Envoy
//! ratelimit would ignore it, such as `shadow_mode` in `rate_limit`, is an error.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};

use super::authentication::TokenReader;
use super::field::{Field, Table};
use super::sources::Sources;
use super::tree::{Result, Value};
use super::yaml::{Word, from_yaml};
use crate::authentication::Tokens;
use crate::envoy::{Amount, Level, Limit, PerUnit, Rule, Rules, Unit, Wildcard};

/// The settings of the gRPC service for Envoy.
#[derive(Debug, Default)]
pub(crate) struct EnvoySettings {
    pub(crate) rules: Rules,
    /// Whether Envoy adds the headers of the rate limit to its responses.
    pub(crate) response_headers: bool,
    /// The tokens that Envoy may authenticate with.
    pub(crate) tokens: Tokens<()>,
}

/// Reads the table and the files that it names, whose paths are relative to `directory`.
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
                .map_err(|error| field.wrong(format!("{name} cannot be read: {error}")))?;
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
    let name = domain.filled_text()?;
    let level = match table.get("descriptors") {
        Some(descriptors) => level(&descriptors)?,
        None => Level::default(),
    };
    match rules.domains.insert(name.to_owned(), level) {
        None => Ok(()),
        Some(_) => Err(domain.wrong(format!("there is another domain {name:?}"))),
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
        // An empty value stands for a missing one.
        let value = table.read("value", Field::text)?.unwrap_or_default();
        let rule = rule(&table, value)?;
        if !known.insert((key, value)) {
            return Err(field.wrong("there is another descriptor with this key and value here"));
        }
        let choices = level.0.entry(key.to_owned()).or_default();
        if value.is_empty() {
            choices.any = Some(Box::new(rule));
        } else if let Some(wildcard) = Wildcard::new(value) {
            choices.wildcards.push((wildcard, rule));
        } else {
            choices.exact.insert(value.to_owned(), rule);
        }
    }
    Ok(level)
}

fn key<'a>(table: &Table<'a>) -> Result<&'a str> {
    let field = table.required("key")?;
    let key = field.filled_text()?;
    if key.contains('*') {
        // Envoy ratelimit compares such a key with the key and the value of a request's entry
        // together, so that a client's value could choose the rule of another key.
        return Err(field.wrong("a `*` stands for any text in a value only: move it there"));
    }
    Ok(key)
}

fn rule(table: &Table<'_>, value: &str) -> Result<Rule> {
    let flag = |name| Ok(table.read(name, boolean)?.unwrap_or_default());
    let share_threshold = flag("share_threshold")?;
    if share_threshold && !value.contains('*') {
        let field = table.required("share_threshold")?;
        return Err(field.wrong("only values with a `*` can share a count: this value has none"));
    }
    let mode = Mode {
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

/// The fields of a descriptor that are about its limit.
struct Mode {
    shadow: bool,
    quota: bool,
    metadata: Option<Arc<Struct>>,
}

fn limit(field: &Field<'_>, mode: Mode) -> Result<Limit> {
    let known = ["unit", "requests_per_unit", "unlimited", "name", "replaces"];
    let table = field.table(&known)?;
    let name = table
        .read("name", Field::text)?
        .filter(|name| !name.is_empty());
    let mut replaces = Vec::new();
    if let Some(list) = table.get("replaces") {
        for item in list.list()? {
            let replaced = item.table(&["name"])?.required("name")?;
            let text = replaced.filled_text()?;
            if Some(text) == name {
                return Err(replaced.wrong("a limit cannot replace itself"));
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
    let unit = |field: &Field<'_>| field.choice_of_any_case(&Unit::NAMES);
    if unlimited {
        // Envoy ratelimit accepts any other text here.
        return match table.get("unit").filter(|field| unit(field).is_ok()) {
            Some(field) => Err(field.wrong("an unlimited rule cannot have a unit: remove it")),
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
        Value::Plain(word) => match Word::new(word) {
            Word::Boolean(boolean) => Ok(boolean),
            _ => Err(field.wrong(format!("must be true or false, not {word:?}"))),
        },
        _ => field.boolean(),
    }
}

fn number(field: &Field<'_>) -> Result<u32> {
    let Value::Plain(word) = field.value() else {
        return field.number(0..=u32::MAX);
    };
    let number = match Word::new(word) {
        Word::Integer(integer) => u32::try_from(integer).ok(),
        _ => None,
    };
    number.ok_or_else(|| field.wrong(format!("must be an integer from 0 to {}", u32::MAX)))
}

/// Reads a table of any names and values.
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
            return Err(field.wrong(format!("{kind} must be written as a text, in quotes")));
        }
        Value::Text(text) => Kind::StringValue(text.clone()),
        Value::Plain(word) => match Word::new(word) {
            Word::Boolean(boolean) => Kind::BoolValue(boolean),
            Word::Integer(integer) => Kind::NumberValue(integer as f64),
            Word::Number(number) => Kind::NumberValue(number),
            Word::Text => Kind::StringValue(word.clone()),
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
