use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::name::{NameError, check_name, is_name};

/// The kind of an identity: `ip`, `user`, or one of the application's own, such as `org`.
///
/// A kind is a label of metrics, so an application should have few. As constants, kinds cannot be
/// misspelt:
///
/// ```
/// use tollgate::{Identity, Kind};
///
/// const ORG: Kind = Kind::new("org");
///
/// let acme = Identity::new(&ORG, "acme");
/// assert_eq!(acme.to_string(), "org:acme");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Kind(Cow<'static, str>);

impl Kind {
    /// The kind of [`Identity::ip`](crate::Identity::ip).
    pub const IP: Self = Self::new("ip");

    /// The kind of [`Identity::user`](crate::Identity::user).
    pub const USER: Self = Self::new("user");

    /// Creates a kind.
    ///
    /// # Panics
    ///
    /// If the name is not 1 to 64 ASCII letters, digits, `.`, `_` and `-`; for a constant, at compile
    /// time. For a name from a configuration, use [`Kind::try_new`].
    ///
    /// ```compile_fail
    /// const PLAN: tollgate::Kind = tollgate::Kind::new("two words");
    /// # PLAN;
    /// ```
    pub const fn new(name: &'static str) -> Self {
        assert!(
            is_name(name),
            "the name of a kind is not 1 to 64 ASCII letters, digits, `.`, `_` and `-`"
        );
        Self(Cow::Borrowed(name))
    }

    /// Creates a kind of a name from a configuration.
    ///
    /// # Errors
    ///
    /// If the name is not 1 to 64 ASCII letters, digits, `.`, `_` and `-`.
    pub fn try_new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        check_name("kind", &name)?;
        Ok(Self(Cow::Owned(name)))
    }

    /// Returns the kind's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Kind {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::try_new(name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({self})")
    }
}
