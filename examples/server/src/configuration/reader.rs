//! Takes values out of a configuration, and says where and what is wrong with those that will not
//! do.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ConfigurationError;
use super::secret::Secret;
use super::tree::{Node, Value};

pub(crate) type Result<T> = std::result::Result<T, ConfigurationError>;

/// A value, and by which names it is reached.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    node: &'a Node,
    path: String,
}

/// A table whose names are all known.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    field: Field<'a>,
    entries: &'a [(String, Node)],
}

impl<'a> Field<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self {
            node,
            path: String::new(),
        }
    }

    fn child(&self, name: &str, node: &'a Node) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = match !name.is_empty() && name.chars().all(plain) {
            true => name.to_owned(),
            false => format!("{name:?}"),
        };
        let path = match self.path.as_str() {
            "" => name,
            path => format!("{path}.{name}"),
        };
        Self { node, path }
    }

    pub(crate) fn value(&self) -> &'a Value {
        &self.node.value
    }

    /// The error that this value will not do.
    pub(crate) fn wrong(&self, problem: impl Display) -> ConfigurationError {
        ConfigurationError::new(self.node.origin.clone(), &self.path, problem)
    }

    fn other_than(&self, wanted: &str) -> ConfigurationError {
        self.wrong(format!("must be {wanted}, not {}", self.value().kind()))
    }

    pub(crate) fn text(&self) -> Result<&'a str> {
        match self.value() {
            Value::Text(text) | Value::Plain(text) => Ok(text),
            _ => Err(self.other_than("a text")),
        }
    }

    /// A text that is not to be seen, even in an error.
    pub(crate) fn secret(&self) -> Result<Secret> {
        match self.text()? {
            "" => Err(self.wrong("must not be empty")),
            text => Ok(Secret::new(text)),
        }
    }

    pub(crate) fn boolean(&self) -> Result<bool> {
        match self.value() {
            Value::Boolean(boolean) => Ok(*boolean),
            Value::Plain(word) if word == "true" => Ok(true),
            Value::Plain(word) if word == "false" => Ok(false),
            _ => Err(self.other_than("true or false")),
        }
    }

    pub(crate) fn number(&self, range: RangeInclusive<u32>) -> Result<u32> {
        let number = match self.value() {
            Value::Integer(number) => u32::try_from(*number).ok(),
            Value::Plain(word) => word.replace('_', "").parse().ok(),
            _ => return Err(self.other_than("an integer")),
        };
        let number = number.filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = range.into_inner();
            self.wrong(format!("must be an integer from {least} to {most}"))
        })
    }

    /// A duration above zero, such as `50ms` or `1m 30s`.
    pub(crate) fn duration(&self) -> Result<Duration> {
        let duration = self.duration_or_zero()?;
        match duration.is_zero() {
            true => Err(self.wrong("must be longer than nothing")),
            false => Ok(duration),
        }
    }

    /// A duration above zero that is no longer than `max`.
    pub(crate) fn duration_up_to(&self, max: Duration) -> Result<Duration> {
        let duration = self.duration()?;
        match duration <= max {
            true => Ok(duration),
            false => {
                let max = humantime::format_duration(max);
                Err(self.wrong(format!("must be at most {max}")))
            }
        }
    }

    pub(crate) fn duration_or_zero(&self) -> Result<Duration> {
        let text = self.text()?;
        humantime::parse_duration(text).map_err(|error| {
            self.wrong(format!(
                "{text:?} is no duration ({error}): write 50ms or 30s"
            ))
        })
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        let text = self.text()?;
        text.parse().map_err(|_| {
            self.wrong(format!(
                "{text:?} is no address to listen on: write an IP address and a port, such as \
                 127.0.0.1:8080 or [::]:8080"
            ))
        })
    }

    /// One of the texts that stand for something.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        self.chosen(choices, |name, text| name == text)
    }

    /// The same, in capitals or not.
    pub(crate) fn choice_of_any_case<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        self.chosen(choices, str::eq_ignore_ascii_case)
    }

    fn chosen<T: Copy>(&self, choices: &[(&str, T)], is: impl Fn(&str, &str) -> bool) -> Result<T> {
        let text = self.text()?;
        let chosen = choices.iter().find(|(name, _)| is(name, text));
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(format!("{text:?} is none of {}", names.join(", ")))
        })
    }

    pub(crate) fn list(&self) -> Result<Vec<Field<'a>>> {
        let Value::List(items) = self.value() else {
            return Err(self.other_than("a list"));
        };
        let numbered = items.iter().enumerate();
        let field = |(index, node)| Self {
            node,
            path: format!("{}[{index}]", self.path),
        };
        Ok(numbered.map(field).collect())
    }

    /// A table with names of the user's own.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Field<'a>)>> {
        let entries = self.raw_entries()?;
        let field = |(name, node): &'a (String, Node)| (name.as_str(), self.child(name, node));
        Ok(entries.iter().map(field).collect())
    }

    fn raw_entries(&self) -> Result<&'a [(String, Node)]> {
        match self.value() {
            Value::Table(entries) => Ok(entries),
            // YAML's way to leave something out.
            Value::Nothing => Ok(&[]),
            _ => Err(self.other_than("a table")),
        }
    }

    /// A table that may have these names, and no others.
    pub(crate) fn table(&self, known: &[&str]) -> Result<Table<'a>> {
        let entries = self.raw_entries()?;
        if let Some((name, node)) = entries
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            let known = known.join(", ");
            let unknown = self.child(name, node);
            return Err(unknown.wrong(format!("there is no such field; there are: {known}")));
        }
        Ok(Table {
            field: self.clone(),
            entries,
        })
    }
}

impl<'a> Table<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<Field<'a>> {
        let (name, node) = self.entries.iter().find(|(known, _)| known == name)?;
        match node.value {
            Value::Nothing => None,
            _ => Some(self.field.child(name, node)),
        }
    }

    /// What `read` makes of the field, if it is there.
    pub(crate) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Field<'a>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(name).map(|field| read(&field)).transpose()
    }

    pub(crate) fn required(&self, name: &str) -> Result<Field<'a>> {
        self.get(name)
            .ok_or_else(|| self.field.wrong(format!("`{name}` is missing")))
    }
}
