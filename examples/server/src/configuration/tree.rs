//! The tree of a configuration: values, each with its file and line or its variable.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The maximum depth of nested lists and tables. Trees are read and dropped by recursion, so the
/// maximum must fit into the stack. Rules for Envoy need two levels for each entry of a descriptor.
pub(super) const MAX_DEPTH: usize = 64;

/// Returns the error for a list or table that exceeds [`MAX_DEPTH`].
pub(super) fn too_deep(origin: Origin) -> ConfigurationError {
    let problem =
        format!("lists and tables are nested more than {MAX_DEPTH} deep here: use fewer levels");
    ConfigurationError::new(origin, "", problem)
}

/// A value and its origin.
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
    /// A value that no field accepts: a number with a fraction, an integer that does not fit into 64
    /// bits, or a date.
    Other(&'static str),
    Text(String),
    /// An unquoted YAML scalar or the text of a variable. The field that reads it determines its
    /// type.
    Plain(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

impl Value {
    /// Returns the kind of the value, for error messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Other(kind) => kind,
            Self::Text(_) | Self::Plain(_) => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// The origin of a value: a line of a file, or an environment variable.
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

    /// Returns the origin of the root without a file.
    pub(crate) fn no_file() -> Self {
        Self::variable("the configuration")
    }

    /// Returns the origin at another line of the same file.
    pub(crate) fn at_line(&self, line: usize) -> Self {
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

/// An error in a configuration: its file and line or its variable, the field, the problem and its
/// fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigurationError {
    origin: Origin,
    field: String,
    problem: String,
}

impl ConfigurationError {
    pub(crate) fn new(origin: Origin, field: &str, problem: impl fmt::Display) -> Self {
        Self {
            origin,
            field: field.to_owned(),
            problem: problem.to_string(),
        }
    }
}

impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

impl Error for ConfigurationError {}

pub(crate) type Result<T> = std::result::Result<T, ConfigurationError>;
