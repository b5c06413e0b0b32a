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
    /// It is not known who asks.
    Unauthenticated,
    /// Whoever asks may not ask that.
    Forbidden,
    /// It cannot be done now.
    Unavailable,
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

    /// It is not known who asks.
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

    /// It cannot be done now.
    pub(crate) fn unavailable(problem: impl Display) -> Self {
        Self {
            kind: RefusalKind::Unavailable,
            ..Self::unreadable(problem)
        }
    }

    /// What became of the request, in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.kind {
            RefusalKind::Invalid => "invalid",
            RefusalKind::Unauthenticated => "unauthenticated",
            RefusalKind::Forbidden => "forbidden",
            RefusalKind::Unavailable => "unavailable",
        }
    }

    /// All that there is to say, in a sentence.
    pub(crate) fn sentence(&self) -> String {
        match &self.field {
            Some(field) => format!("`{field}`: {}", self.problem),
            None => self.problem.clone(),
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
