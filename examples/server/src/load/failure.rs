use std::borrow::Cow;
use std::error::Error;

/// Why there was no answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// The same for all that are counted together.
    pub(super) kind: Cow<'static, str>,
    /// What one of them says.
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn new(kind: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            detail: detail.into(),
        }
    }

    /// With everything that led to it, since the outermost says little.
    pub(super) fn of(kind: impl Into<Cow<'static, str>>, error: &(dyn Error + 'static)) -> Self {
        let mut detail = error.to_string();
        for cause in causes(error).skip(1) {
            let cause = cause.to_string();
            // Some repeat their cause.
            if !detail.contains(&cause) {
                detail.push_str(": ");
                detail.push_str(&cause);
            }
        }
        Self::new(kind, detail)
    }
}

/// The error, its cause, and so on.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
