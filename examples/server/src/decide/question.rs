use tollgate::{Identity, Limits};

use super::refusal::Refusal;

/// What a caller wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) key: String,
    /// None: the caller's own, or the default one.
    pub(crate) tenant: Option<String>,
    /// None: those of the configuration.
    pub(crate) limits: Option<Limits>,
    pub(crate) cost: u32,
}

/// The kind of the identities that keys are, which labels metrics.
const KIND: &str = "key";

/// Whom a key stands for: `user:42` for a user, everything else for itself.
pub(super) fn identity(key: &str) -> Result<Identity, Refusal> {
    match key.strip_prefix("user:") {
        _ if key.is_empty() => Err(Refusal::invalid("key", "must not be empty")),
        Some("") => Err(Refusal::invalid("key", "names no user after `user:`")),
        Some(user) => Ok(Identity::user(user)),
        None => Ok(Identity::new(KIND, key).expect("a good kind")),
    }
}
