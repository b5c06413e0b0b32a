//! Reads the rules of a domain.

use std::sync::Arc;

use super::limit::{Amount, Limit, PerUnit, Unit};
use super::metadata;
use super::rules::{Level, Rule, Rules};
use super::wildcard::Wildcard;
use crate::configuration::{Field, Result, Table};

/// Adds the rules of a domain.
pub(crate) fn read_domain(field: &Field<'_>, rules: &mut Rules) -> Result<()> {
    let table = field.table(&["domain", "descriptors"])?;
    let domain = table.required("domain")?;
    let name = not_empty(&domain)?;
    let level = match table.get("descriptors") {
        Some(descriptors) => level(&descriptors)?,
        None => Level::default(),
    };
    match rules.domains.insert(name.to_owned(), level) {
        None => Ok(()),
        Some(_) => Err(domain.wrong(format!("there is another domain {name:?}"))),
    }
}

fn not_empty<'a>(field: &Field<'a>) -> Result<&'a str> {
    match field.text()? {
        "" => Err(field.wrong("must not be empty")),
        text => Ok(text),
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
    for field in field.list()? {
        let table = field.table(&KNOWN)?;
        let key = not_empty(&table.required("key")?)?;
        // An empty one is as good as none.
        let value = table.read("value", Field::text)?.unwrap_or_default();
        let rule = rule(&table, value)?;
        let choices = level.0.entry(key.to_owned()).or_default();
        let is_new = if value.is_empty() {
            choices.any.replace(Box::new(rule)).is_none()
        } else if let Some(wildcard) = Wildcard::new(value) {
            let is_new = choices
                .wildcards
                .iter()
                .all(|(known, _)| *known != wildcard);
            choices.wildcards.push((wildcard, rule));
            is_new
        } else {
            choices.exact.insert(value.to_owned(), rule).is_none()
        };
        if !is_new {
            return Err(field.wrong("there is another descriptor with this key and value here"));
        }
    }
    Ok(level)
}

fn rule(table: &Table<'_>, value: &str) -> Result<Rule> {
    let flag = |name| Ok(table.read(name, Field::boolean)?.unwrap_or_default());
    let share_threshold = flag("share_threshold")?;
    if share_threshold && !value.contains('*') {
        let field = table.required("share_threshold")?;
        return Err(field.wrong("only values with a `*` can share: the value has none"));
    }
    let limit = table.read("rate_limit", |field| limit(field, table))?;
    let next = table.read("descriptors", level)?;
    Ok(Rule {
        limit,
        share_threshold,
        detailed_metric: flag("detailed_metric")?,
        value_to_metric: flag("value_to_metric")?,
        next: next.unwrap_or_default(),
    })
}

fn limit(field: &Field<'_>, rule: &Table<'_>) -> Result<Limit> {
    let known = ["unit", "requests_per_unit", "unlimited", "name", "replaces"];
    let table = field.table(&known)?;
    let flag = |name| Ok(rule.read(name, Field::boolean)?.unwrap_or_default());
    let name = table
        .read("name", Field::text)?
        .filter(|name| !name.is_empty());
    let mut replaces = Vec::new();
    if let Some(list) = table.get("replaces") {
        for item in list.list()? {
            let replaced = item.table(&["name"])?.required("name")?;
            let text = not_empty(&replaced)?;
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
        shadow: flag("shadow_mode")?,
        quota_mode: flag("quota_mode")?,
        metadata: rule.read("metadata", metadata::read)?.map(Arc::new),
    })
}

fn amount(table: &Table<'_>) -> Result<Amount> {
    let unlimited = table.read("unlimited", Field::boolean)?.unwrap_or_default();
    if unlimited {
        return match table.get("unit") {
            Some(unit) => Err(unit.wrong("what is unlimited has no unit")),
            None => Ok(Amount::Unlimited),
        };
    }
    let unit = table.required("unit")?.choice_of_any_case(&Unit::NAMES)?;
    let requests = table.required("requests_per_unit")?;
    let number = requests.number(0..=u32::MAX)?;
    Ok(Amount::PerUnit(PerUnit::new(number, unit)))
}
