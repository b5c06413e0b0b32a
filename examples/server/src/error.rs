use std::fmt::Display;

/// Why a request is not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    /// The field that is wrong.
    pub(crate) field: Option<String>,
    /// The problem and its fix, for the caller.
    pub(crate) problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// The request is malformed.
    Invalid,
    /// The caller did not authenticate.
    Unauthenticated,
    /// The caller must not ask this.
    Forbidden,
    /// The store did not answer.
    Unavailable,
}

impl Refusal {
    /// The request is malformed as a whole.
    pub(crate) fn unreadable(problem: impl Display) -> Self {
        Self {
            kind: RefusalKind::Invalid,
            field: None,
            problem: problem.to_string(),
        }
    }

    /// The caller did not authenticate.
    pub(crate) fn unauthenticated(problem: impl Display) -> Self {
        Self {
            kind: RefusalKind::Unauthenticated,
            ..Self::unreadable(problem)
        }
    }

    /// The caller must not ask this.
    pub(crate) fn not_allowed(problem: impl Display) -> Self {
        Self {
            kind: RefusalKind::Forbidden,
            ..Self::unreadable(problem)
        }
    }

    /// The caller must not ask this, because of a field.
    pub(crate) fn forbidden(field: &str, problem: impl Display) -> Self {
        Self {
            kind: RefusalKind::Forbidden,
            ..Self::invalid(field, problem)
        }
    }

    /// The store did not answer.
    pub(crate) fn unavailable(problem: impl Display) -> Self {
        Self {
            kind: RefusalKind::Unavailable,
            ..Self::unreadable(problem)
        }
    }

    /// The outcome, as a label of metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.kind {
            RefusalKind::Invalid => "invalid",
            RefusalKind::Unauthenticated => "unauthenticated",
            RefusalKind::Forbidden => "forbidden",
            RefusalKind::Unavailable => "unavailable",
        }
    }

    /// The field and the problem, as one sentence.
    pub(crate) fn sentence(&self) -> String {
        match &self.field {
            Some(field) => format!("`{field}`: {}", self.problem),
            None => self.problem.clone(),
        }
    }

    /// A field is invalid.
    pub(crate) fn invalid(field: &str, problem: impl Display) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::unreadable(problem)
        }
    }
}
