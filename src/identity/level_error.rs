/// The error of [`Identity::within`](crate::Identity::within).
///
/// ```
/// use tollgate::{Identity, Kind};
///
/// const ORG: Kind = Kind::new("org");
///
/// let (acme, other) = (Identity::new(&ORG, "acme"), Identity::new(&ORG, "other"));
/// assert!(acme.within(other).unwrap_err().is_duplicate_kind());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct LevelError(Flaw);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Flaw {
    #[error("an identity has at most four levels, not {0}")]
    TooMany(usize),
    #[error("an identity cannot have two levels of the kind `{0}`: give each its own kind")]
    Duplicate(String),
}

impl LevelError {
    pub(super) fn too_many(levels: usize) -> Self {
        Self(Flaw::TooMany(levels))
    }

    pub(super) fn duplicate(kind: &str) -> Self {
        Self(Flaw::Duplicate(kind.to_owned()))
    }

    /// Returns whether the identity would have more than four levels.
    pub fn is_level_count(&self) -> bool {
        matches!(self.0, Flaw::TooMany(_))
    }

    /// Returns whether two levels have the same kind.
    pub fn is_duplicate_kind(&self) -> bool {
        matches!(self.0, Flaw::Duplicate(_))
    }
}
