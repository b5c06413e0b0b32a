//! Reads typed values from the fields of a tree. An error has the origin of the value, the path of
//! the field and the fix.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use tollgate::Scope;

use super::tree::{ConfigurationError, Node, Result, Value};

/// A value, and the path to it from the root.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    node: &'a Node,
    /// The root has none. Paths share their beginnings, so that a long name is not copied for every
    /// field below it.
    path: Option<Rc<Path<'a>>>,
}

#[derive(Debug)]
struct Path<'a> {
    before: Option<Rc<Self>>,
    last: Step<'a>,
}

#[derive(Debug)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// A table that has only known names.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    field: Field<'a>,
    entries: &'a [(String, Node)],
}

/// Writes a path as `tenants.acme.tokens[0]`.
impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = &self.before {
            before.fmt(f)?;
        }
        match self.last {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Name(name) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                let dot = if self.before.is_some() { "." } else { "" };
                match !name.is_empty() && name.chars().all(plain) {
                    true => write!(f, "{dot}{name}"),
                    false => write!(f, "{dot}{name:?}"),
                }
            }
        }
    }
}

impl<'a> Field<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self { node, path: None }
    }

    fn child(&self, last: Step<'a>, node: &'a Node) -> Self {
        let before = self.path.clone();
        let path = Some(Rc::new(Path { before, last }));
        Self { node, path }
    }

    pub(crate) fn value(&self) -> &'a Value {
        &self.node.value
    }

    fn path(&self) -> String {
        let path = self.path.as_ref();
        path.map(|path| path.to_string()).unwrap_or_default()
    }

    /// The path and the origin, for the error of another field.
    pub(crate) fn place(&self) -> String {
        format!("{} ({})", self.path(), self.node.origin)
    }

    /// Returns an error for this field. The problem says the fix too.
    pub(crate) fn wrong(&self, problem: impl Display) -> ConfigurationError {
        ConfigurationError::new(self.node.origin.clone(), &self.path(), problem)
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

    pub(crate) fn filled_text(&self) -> Result<&'a str> {
        match self.text()? {
            "" => Err(self.wrong("must not be empty")),
            text => Ok(text),
        }
    }

    /// A text that no error and no log shows.
    pub(crate) fn secret(&self) -> Result<Secret> {
        self.filled_text().map(Secret::new)
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

    /// The value for a text among the choices.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        self.chosen(choices, |name, text| name == text)
    }

    /// The value for a text among the choices, in capitals or not.
    pub(crate) fn choice_of_any_case<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        self.chosen(choices, str::eq_ignore_ascii_case)
    }

    fn chosen<T: Copy>(&self, choices: &[(&str, T)], is: impl Fn(&str, &str) -> bool) -> Result<T> {
        let text = self.text()?;
        let chosen = choices.iter().find(|(name, _)| is(name, text));
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(format!("{text:?} is unknown: write {}", names.join(" or ")))
        })
    }

    pub(crate) fn list(&self) -> Result<Vec<Field<'a>>> {
        let Value::List(items) = self.value() else {
            return Err(self.other_than("a list"));
        };
        let numbered = items.iter().enumerate();
        let field = |(index, node)| self.child(Step::Index(index), node);
        Ok(numbered.map(field).collect())
    }

    /// The fields of a table whose names the user chooses.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Field<'a>)>> {
        let entries = self.raw_entries()?.iter();
        let field =
            |(name, node): &'a (String, Node)| (name.as_str(), self.child(Step::Name(name), node));
        Ok(entries.map(field).collect())
    }

    fn raw_entries(&self) -> Result<&'a [(String, Node)]> {
        match self.value() {
            Value::Table(entries) => Ok(entries),
            // A name without a value in YAML.
            Value::Nothing => Ok(&[]),
            _ => Err(self.other_than("a table")),
        }
    }

    /// A table that may have these names only.
    pub(crate) fn table(&self, known: &[&str]) -> Result<Table<'a>> {
        let entries = self.raw_entries()?;
        if let Some((name, node)) = entries
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            let known = known.join(", ");
            let unknown = self.child(Step::Name(name), node);
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
            _ => Some(self.field.child(Step::Name(name), node)),
        }
    }

    /// Reads the field, if it is there.
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

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Refuses names that cannot be part of a path or of a store's key.
pub(super) fn check_name(name: &str, field: &Field<'_>) -> Result<()> {
    Scope::new(name)
        .map(drop)
        .map_err(|_| field.wrong("must be named with 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`"))
}
