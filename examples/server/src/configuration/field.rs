//! Reads typed values from the fields of a tree. An error has the origin of the value, the path of
//! the field, the problem and its fix.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use tollgate::Scope;

use super::toml::syntax_error;
use super::tree::{ConfigurationError, Node, Result, Value};

/// A value, and the path to it from the root.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    node: &'a Node,
    /// `None` for the root. Paths share their parents, so that a long name is not copied for every
    /// field below it.
    path: Option<Rc<Path<'a>>>,
}

#[derive(Debug)]
struct Path<'a> {
    parent: Option<Rc<Self>>,
    last: PathSegment<'a>,
}

#[derive(Debug)]
enum PathSegment<'a> {
    Name(&'a str),
    Index(usize),
}

/// A table without unknown names.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    field: Field<'a>,
    entries: &'a [(String, Node)],
}

/// Writes a path as `tenants.acme.tokens[0]`.
impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = &self.parent {
            parent.fmt(f)?;
        }
        match self.last {
            PathSegment::Index(index) => write!(f, "[{index}]"),
            PathSegment::Name(name) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                let dot = if self.parent.is_some() { "." } else { "" };
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

    fn child(&self, last: PathSegment<'a>, node: &'a Node) -> Self {
        let parent = self.path.clone();
        let path = Some(Rc::new(Path { parent, last }));
        Self { node, path }
    }

    pub(crate) fn value(&self) -> &'a Value {
        &self.node.value
    }

    fn path(&self) -> String {
        let path = self.path.as_ref();
        path.map(|path| path.to_string()).unwrap_or_default()
    }

    /// Returns the path and the origin, for the error of another field.
    pub(crate) fn location(&self) -> String {
        format!("{} ({})", self.path(), self.node.origin)
    }

    /// Returns an error for this field. The problem includes its fix.
    pub(crate) fn error(&self, problem: impl Display) -> ConfigurationError {
        ConfigurationError::new(self.node.origin.clone(), &self.path(), problem)
    }

    /// Returns an error for a value of another type. The error does not show the value, which may be
    /// a secret.
    fn type_error(&self, wanted: &str) -> ConfigurationError {
        if let Value::Plain(text) = self.value()
            && let Some(problem) = syntax_error(text)
        {
            return self.error(format!("must be {wanted}; {problem}"));
        }
        self.error(format!("must be {wanted}, not {}", self.value().kind()))
    }

    /// Returns an error that shows the value. Not for fields in which a secret may be written.
    pub(super) fn unexpected(&self, wanted: &str) -> ConfigurationError {
        let value = match self.value() {
            Value::Boolean(boolean) => boolean.to_string(),
            Value::Integer(integer) => integer.to_string(),
            Value::Text(text) | Value::Plain(text) => format!("{text:?}"),
            other => other.kind().to_owned(),
        };
        self.error(format!("must be {wanted}, not {value}"))
    }

    pub(crate) fn text(&self) -> Result<&'a str> {
        match self.value() {
            Value::Text(text) | Value::Plain(text) => Ok(text),
            _ => Err(self.type_error("a string")),
        }
    }

    pub(crate) fn non_empty_text(&self) -> Result<&'a str> {
        match self.text()? {
            "" => Err(self.error("must not be empty")),
            text => Ok(text),
        }
    }

    /// Reads a string that neither errors nor logs show.
    pub(crate) fn secret(&self) -> Result<Secret> {
        self.non_empty_text().map(Secret::new)
    }

    pub(crate) fn boolean(&self) -> Result<bool> {
        match self.value() {
            Value::Boolean(boolean) => Ok(*boolean),
            Value::Plain(word) if word == "true" => Ok(true),
            Value::Plain(word) if word == "false" => Ok(false),
            _ => Err(self.unexpected("true or false")),
        }
    }

    pub(crate) fn number(&self, range: RangeInclusive<u32>) -> Result<u32> {
        let number = match self.value() {
            Value::Integer(number) => u32::try_from(*number).ok(),
            Value::Plain(word) => word.replace('_', "").parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = range.into_inner();
            self.unexpected(&format!("an integer from {least} to {most}"))
        })
    }

    /// Reads a duration above zero, such as `50ms` or `1m 30s`.
    pub(crate) fn duration(&self) -> Result<Duration> {
        let duration = self.duration_or_zero()?;
        match duration.is_zero() {
            true => Err(self.unexpected("longer than 0s")),
            false => Ok(duration),
        }
    }

    /// Reads a duration above zero and up to `max`.
    pub(crate) fn duration_up_to(&self, max: Duration) -> Result<Duration> {
        let duration = self.duration()?;
        match duration <= max {
            true => Ok(duration),
            false => {
                let max = humantime::format_duration(max);
                Err(self.unexpected(&format!("at most {max}")))
            }
        }
    }

    pub(crate) fn duration_or_zero(&self) -> Result<Duration> {
        if let Value::Integer(integer) = self.value() {
            return Err(self.error(format!(
                "must be a string with a unit, not {integer}: write \"{integer}ms\" or \"{integer}s\""
            )));
        }
        let text = self.text()?;
        humantime::parse_duration(text).map_err(|error| {
            self.error(format!(
                "{text:?} is not a duration ({error}): write 50ms or 30s"
            ))
        })
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        let text = self.text()?;
        text.parse().map_err(|_| {
            self.error(format!(
                "{text:?} is not an address to listen on: write an IP address and a port, such as \
                 127.0.0.1:8080 or [::]:8080"
            ))
        })
    }

    /// Reads the name of a choice, and returns its value.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        self.find_choice(choices, |name, text| name == text)
    }

    /// Reads the name of a choice, ignoring case, and returns its value.
    pub(crate) fn choice_ignoring_case<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        self.find_choice(choices, str::eq_ignore_ascii_case)
    }

    fn find_choice<T: Copy>(
        &self,
        choices: &[(&str, T)],
        is_match: impl Fn(&str, &str) -> bool,
    ) -> Result<T> {
        let text = self.text()?;
        let choice = choices.iter().find(|(name, _)| is_match(name, text));
        choice.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.error(format!("{text:?} is unknown: write {}", names.join(" or ")))
        })
    }

    pub(crate) fn list(&self) -> Result<Vec<Field<'a>>> {
        let items = match self.value() {
            Value::List(items) => items,
            Value::Table(entries)
                if !entries.is_empty() && entries.iter().all(|(name, _)| is_index(name)) =>
            {
                // Variables such as TOLLGATE__TENANTS__ACME__TOKENS__0, without a list in the file.
                let variable = self.path().to_uppercase().replace('.', "__");
                return Err(self.error(format!(
                    "must be a list, not a table: a variable with an index changes an item of a list \
                     that exists; write the whole list, as TOLLGATE__{variable}='[\"first\", \"second\"]'"
                )));
            }
            _ => return Err(self.type_error("a list")),
        };
        let numbered = items.iter().enumerate();
        let field = |(index, node)| self.child(PathSegment::Index(index), node);
        Ok(numbered.map(field).collect())
    }

    /// Returns the fields of a table with arbitrary names.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Field<'a>)>> {
        let entries = self.raw_entries()?.iter();
        let field = |(name, node): &'a (String, Node)| {
            (name.as_str(), self.child(PathSegment::Name(name), node))
        };
        Ok(entries.map(field).collect())
    }

    fn raw_entries(&self) -> Result<&'a [(String, Node)]> {
        match self.value() {
            Value::Table(entries) => Ok(entries),
            // In YAML, a name without a value.
            Value::Nothing => Ok(&[]),
            _ => Err(self.type_error("a table")),
        }
    }

    /// Reads a table, and returns an error for a name that is not in `known`.
    pub(crate) fn table(&self, known: &[&str]) -> Result<Table<'a>> {
        let entries = self.raw_entries()?;
        if let Some((name, node)) = entries
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            let unknown = self.child(PathSegment::Name(name), node);
            let kind = match (&self.path, &node.value) {
                (None, Value::Table(_)) => "table",
                _ => "field",
            };
            let similar = known.iter().find(|known| is_similar(known, name));
            let hint = match similar {
                Some(similar) => format!("; did you mean `{similar}`?"),
                None if self.path() == "listen" && name.contains("tls") => {
                    "; the server does not support TLS: put a proxy in front of it (README, \"On the \
                     open internet\")"
                        .to_owned()
                }
                None => String::new(),
            };
            let known = known.join(", ");
            let problem = format!("there is no such {kind}; there are: {known}{hint}");
            return Err(unknown.error(problem));
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
            _ => Some(self.field.child(PathSegment::Name(name), node)),
        }
    }

    /// Reads a field, if it is present.
    pub(crate) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Field<'a>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(name).map(|field| read(&field)).transpose()
    }

    pub(crate) fn required(&self, name: &str) -> Result<Field<'a>> {
        self.get(name).ok_or_else(|| {
            let fix = match example(name) {
                Some(example) => format!("give it a value such as `{example}`"),
                None => "add it".to_owned(),
            };
            self.field.error(format!("`{name}` is missing: {fix}"))
        })
    }
}

/// Returns an example of the value of a required field.
fn example(name: &str) -> Option<&'static str> {
    Some(match name {
        "url" => "redis://127.0.0.1:6379",
        "tokens" => "{ alice = \"sha256:…\" }",
        "audience" => "limits",
        "keys" => "[{ algorithm = \"RS256\", public_key = \"…\" }]",
        "algorithm" => "RS256",
        "domain" => "edge",
        "key" => "remote_address",
        "unit" => "second",
        _ => return None,
    })
}

fn is_index(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether two names differ by one character that is missing, additional or different.
fn is_similar(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let (short, long) = match one.len() <= other.len() {
        true => (one, other),
        false => (other, one),
    };
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    match long.len() - short.len() {
        0 => same < short.len() && short[same + 1..] == long[same + 1..],
        1 => short[same..] == long[same + 1..],
        _ => false,
    }
}

/// A password, key or token, which `Debug` does not show.
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

/// Returns an error for a name that cannot be part of a path or of a key in Redis.
pub(super) fn check_name(name: &str, field: &Field<'_>) -> Result<()> {
    Scope::new(name)
        .map(drop)
        .map_err(|_| field.error("must be named with 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`"))
}
