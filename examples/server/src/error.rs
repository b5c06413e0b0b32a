//! The error of a request.

use std::fmt::Display;

/// The error of a request, which each front end converts to its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) kind: ApiErrorKind,
    /// The invalid field.
    pub(crate) field: Option<String>,
    /// The problem and its fix, for the caller.
    pub(crate) problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiErrorKind {
    /// The request is invalid.
    Invalid,
    /// The caller did not authenticate.
    Unauthenticated,
    /// The caller may not send this request.
    Forbidden,
    /// The store did not answer.
    Unavailable,
}

impl ApiError {
    /// Returns the error for an invalid field.
    pub(crate) fn invalid(field: &str, problem: impl Display) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::invalid_request(problem)
        }
    }

    /// Returns the error for a request that is invalid as a whole.
    pub(crate) fn invalid_request(problem: impl Display) -> Self {
        Self {
            kind: ApiErrorKind::Invalid,
            field: None,
            problem: problem.to_string(),
        }
    }

    /// Returns the error for a caller that did not authenticate.
    pub(crate) fn unauthenticated(problem: impl Display) -> Self {
        Self {
            kind: ApiErrorKind::Unauthenticated,
            ..Self::invalid_request(problem)
        }
    }

    /// Returns the error for a request that the caller may not send.
    pub(crate) fn forbidden(problem: impl Display) -> Self {
        Self {
            kind: ApiErrorKind::Forbidden,
            ..Self::invalid_request(problem)
        }
    }

    /// Returns the error for a field that the caller may not send with this value.
    pub(crate) fn forbidden_field(field: &str, problem: impl Display) -> Self {
        Self {
            kind: ApiErrorKind::Forbidden,
            ..Self::invalid(field, problem)
        }
    }

    /// Returns the error for a store that did not answer.
    pub(crate) fn unavailable(problem: impl Display) -> Self {
        Self {
            kind: ApiErrorKind::Unavailable,
            ..Self::invalid_request(problem)
        }
    }

    /// Returns the outcome of the request, as a label of metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.kind {
            ApiErrorKind::Invalid => "invalid",
            ApiErrorKind::Unauthenticated => "unauthenticated",
            ApiErrorKind::Forbidden => "forbidden",
            ApiErrorKind::Unavailable => "unavailable",
        }
    }

    /// Returns the field and the problem, as one sentence.
    pub(crate) fn message(&self) -> String {
        match &self.field {
            Some(field) => format!("`{field}`: {}", self.problem),
            None => self.problem.clone(),
        }
    }
}
