//! A configuration as it was written: values, and where each of them stands.

use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigurationError;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Nothing,
    Boolean(bool),
    Integer(i64),
    /// A number with a fraction, or a date: no field takes one.
    Other(&'static str),
    Text(String),
    /// A word that is what the field takes it for: YAML has such, and the environment.
    Plain(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

impl Value {
    /// What kind of value it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Other(kind) => kind,
            Self::Text(_) | Self::Plain(_) => "a text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Where a value stands: a line of a file, or a variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    source: Arc<str>,
    line: Option<usize>,
}

impl Origin {
    pub(crate) fn file(name: &str, line: usize) -> Self {
        Self {
            source: name.into(),
            line: Some(line),
        }
    }

    pub(crate) fn variable(name: &str) -> Self {
        Self {
            source: name.into(),
            line: None,
        }
    }

    /// Where a value is that nobody has written.
    pub(crate) fn unwritten() -> Self {
        Self::variable("the configuration")
    }

    pub(crate) fn line(&self, line: usize) -> Self {
        Self {
            source: Arc::clone(&self.source),
            line: Some(line),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// Reads TOML; `name` is the file's.
pub(crate) fn from_toml(text: &str, name: &str) -> Result<Node, ConfigurationError> {
    let lines = Lines {
        text,
        file: Origin::file(name, 1),
    };
    match DeTable::parse(text) {
        Ok(table) => Ok(Node {
            value: lines.table(table.get_ref()),
            origin: lines.file,
        }),
        Err(error) => {
            let place = error.span().map_or(0, |span| span.start);
            let problem = format!("this is no TOML: {}", error.message());
            Err(ConfigurationError::new(lines.at(place), "", problem))
        }
    }
}

/// The value that a text stands for where it came without a file: TOML if it is a text in quotes, a
/// list or a table, or else itself, whatever the field that reads it takes it for.
pub(crate) fn from_variable(text: &str, origin: &Origin) -> Node {
    let lines = Lines {
        text,
        file: origin.clone(),
    };
    // Of several lines, such as a key in PEM, only the first would count.
    let parsed = (!text.contains('\n')).then(|| DeValue::parse(text));
    let mut node = match &parsed {
        Some(Ok(value)) if value.get_ref().is_str() => lines.node(value),
        Some(Ok(value)) if value.get_ref().is_array() => lines.node(value),
        Some(Ok(value)) if value.get_ref().is_table() => lines.node(value),
        _ => Node {
            value: Value::Plain(text.to_owned()),
            origin: origin.clone(),
        },
    };
    relocate(&mut node, origin);
    node
}

fn relocate(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| relocate(item, origin)),
        Value::Table(entries) => entries
            .iter_mut()
            .for_each(|(_, entry)| relocate(entry, origin)),
        _ => {}
    }
}

/// Tells lines from places in a text.
struct Lines<'a> {
    text: &'a str,
    file: Origin,
}

impl Lines<'_> {
    fn at(&self, place: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(place);
        self.file
            .line(1 + before.filter(|byte| **byte == b'\n').count())
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let origin = self.at(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(integer) => {
                let number = i64::from_str_radix(integer.as_str(), integer.radix());
                number.map_or(Value::Other("a number that is too large"), Value::Integer)
            }
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(table) => self.table(table),
        };
        Node { value, origin }
    }

    /// Entries in the order of the file, each at the line of its name.
    fn table(&self, table: &DeTable<'_>) -> Value {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let entries = entries.into_iter().map(|(name, value)| {
            let node = self.node(value);
            let origin = self.at(name.span().start);
            (name.get_ref().to_string(), Node { origin, ..node })
        });
        Value::Table(entries.collect())
    }
}
