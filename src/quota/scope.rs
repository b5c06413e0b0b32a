use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::name::{NameError, check_name, fingerprint};

/// A named part of the application with its own counts: two scopes never share a count.
///
/// The default scope is named `default`. A scope's text form is its name:
///
/// ```
/// use tollgate::Scope;
///
/// let scope: Scope = "api".parse()?;
/// assert_eq!(scope, Scope::new("api")?);
/// assert_eq!(scope.to_string(), "api");
/// assert!("two words".parse::<Scope>().unwrap_err().is_invalid_name());
/// # Ok::<(), tollgate::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// `None` for the default scope, so that cloning the most common scope touches no shared
    /// reference count.
    name: Option<Arc<str>>,
    fingerprint: u128,
}

/// The name of the default scope, and of the policy of a single quota.
pub(super) const DEFAULT: &str = "default";

impl Scope {
    /// Creates a scope.
    ///
    /// # Errors
    ///
    /// If the name is not 1 to 64 ASCII letters, digits, `.`, `_` and `-`.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check_name("scope", name)?;
        Ok(Self {
            name: (name != DEFAULT).then(|| name.into()),
            fingerprint: fingerprint("scope", name),
        })
    }

    /// Returns a hash of the name, which differs for every scope and policy.
    pub(crate) fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Returns the scope's name.
    pub fn as_str(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT)
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new(DEFAULT).expect("the default name is valid")
    }
}

impl FromStr for Scope {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({self})")
    }
}
