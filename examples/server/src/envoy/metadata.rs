//! Metadata of rules: dynamic metadata of the response, for filters after Envoy's rate limit filter.

use std::collections::btree_map::Entry;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::word::Word;
use crate::configuration::{self, Field, Result};

/// Reads a table of any names and values.
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
            return Err(field.wrong(format!("{kind} must be written as a text, in quotes")));
        }
        configuration::Value::Text(text) => Kind::StringValue(text.clone()),
        configuration::Value::Plain(word) => match Word::new(word) {
            Word::Boolean(boolean) => Kind::BoolValue(boolean),
            Word::Integer(integer) => Kind::NumberValue(integer as f64),
            Word::Number(number) => Kind::NumberValue(number),
            Word::Text => Kind::StringValue(word.clone()),
        },
        configuration::Value::List(_) => Kind::ListValue(ListValue {
            values: field.list()?.iter().map(value).collect::<Result<_>>()?,
        }),
        configuration::Value::Table(_) => Kind::StructValue(read(field)?),
    };
    Ok(Value { kind: Some(kind) })
}

/// The dynamic metadata of a response: the metadata of these rules, merged, in the field `metadata`.
/// `None` if it is empty.
pub(crate) fn merged<'a>(rules: impl IntoIterator<Item = &'a Struct>) -> Option<Struct> {
    let mut merged = Struct::default();
    for metadata in rules {
        merge(&mut merged, metadata);
    }
    let is_any = !merged.fields.is_empty();
    let kind = Some(Kind::StructValue(merged));
    is_any.then(|| Struct {
        fields: [("metadata".to_owned(), Value { kind })].into(),
    })
}

/// Adds fields. A field that is there already stays as it is, unless both values are tables, which
/// are merged in the same way.
fn merge(merged: &mut Struct, more: &Struct) {
    for (name, value) in &more.fields {
        match merged.fields.entry(name.clone()) {
            Entry::Vacant(free) => {
                free.insert(value.clone());
            }
            Entry::Occupied(mut known) => {
                if let (Some(Kind::StructValue(merged)), Some(Kind::StructValue(more))) =
                    (&mut known.get_mut().kind, &value.kind)
                {
                    merge(merged, more);
                }
            }
        }
    }
}
