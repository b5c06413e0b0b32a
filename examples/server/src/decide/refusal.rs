use std::fmt::Display;

/// Why a request is not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    /// The field that is wrong.
    pub(crate) field: Option<String>,
    /// What to do about it. The caller reads this.
    pub(crate) problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// It cannot be understood.
    Invalid,
}

impl Refusal {
    /// The request cannot be understood as a whole.
    pub(crate) fn unreadable(problem: impl Display) -> Self {
        Self {
            kind: RefusalKind::Invalid,
            field: None,
            problem: problem.to_string(),
        }
    }

    /// A field is wrong.
    pub(crate) fn invalid(field: &str, problem: impl Display) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::unreadable(problem)
        }
    }
}
