//! What a rule tells Envoy of those whom it lets through, for the filters behind the rate limit's.

use std::collections::btree_map::Entry;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use crate::configuration::{self, Field, Result};

/// Reads a table of whatever the user likes.
pub(super) fn read(field: &Field<'_>) -> Result<Struct> {
    let entries = field.entries()?.into_iter();
    let fields = entries.map(|(name, field)| Ok((name.to_owned(), value(&field)?)));
    Ok(Struct {
        fields: fields.collect::<Result<_>>()?,
    })
}

fn value(field: &Field<'_>) -> Result<Value> {
    let kind = match field.value() {
        configuration::Value::Nothing => Kind::NullValue(0),
        configuration::Value::Boolean(boolean) => Kind::BoolValue(*boolean),
        configuration::Value::Integer(integer) => Kind::NumberValue(*integer as f64),
        configuration::Value::Other(kind) => {
            return Err(field.wrong(format!("must be written as a text, since it is {kind}")));
        }
        configuration::Value::Text(text) => Kind::StringValue(text.clone()),
        configuration::Value::Plain(word) => plain(word),
        configuration::Value::List(_) => Kind::ListValue(ListValue {
            values: field.list()?.iter().map(value).collect::<Result<_>>()?,
        }),
        configuration::Value::Table(_) => Kind::StructValue(read(field)?),
    };
    Ok(Value { kind: Some(kind) })
}

/// A word without quotes, as YAML has it: true, false, a decimal number, or a text.
fn plain(word: &str) -> Kind {
    match word {
        "true" => Kind::BoolValue(true),
        "false" => Kind::BoolValue(false),
        _ => match word.parse::<f64>() {
            Ok(number) if number.is_finite() => Kind::NumberValue(number),
            _ => Kind::StringValue(word.to_owned()),
        },
    }
}

/// What several rules tell, as Envoy is to be told it, if they tell anything.
pub(crate) fn told<'a>(rules: impl IntoIterator<Item = &'a Struct>) -> Option<Struct> {
    let mut told = Struct::default();
    for metadata in rules {
        merge(&mut told, metadata);
    }
    let is_any = !told.fields.is_empty();
    let kind = Some(Kind::StructValue(told));
    is_any.then(|| Struct {
        fields: [("metadata".to_owned(), Value { kind })].into(),
    })
}

/// Adds what another rule tells. Where both say something else, the first one counts.
fn merge(told: &mut Struct, more: &Struct) {
    for (name, value) in &more.fields {
        match told.fields.entry(name.clone()) {
            Entry::Vacant(free) => {
                free.insert(value.clone());
            }
            Entry::Occupied(mut known) => {
                if let (Some(Kind::StructValue(told)), Some(Kind::StructValue(more))) =
                    (&mut known.get_mut().kind, &value.kind)
                {
                    merge(told, more);
                }
            }
        }
    }
}
