//! The error of a configuration.

use std::error::Error;
use std::fmt;

use super::tree::Origin;

/// A mistake in a configuration: its file and line or variable, its field, the problem and the fix.
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
