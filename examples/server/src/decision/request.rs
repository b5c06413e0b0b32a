use std::time::Duration;

use tollgate::{Decision, Identity, Limits};

use crate::authentication::Caller;
use crate::error::Refusal;

/// A request to decide, as the protocols hand it over.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The caller's own key if `None`.
    pub(crate) key: Option<String>,
    /// The caller's own tenant, or the default one, if `None`.
    pub(crate) tenant: Option<String>,
    /// The configured limits if `None`.
    pub(crate) limits: Option<Limits>,
    pub(crate) cost: u32,
}

/// The key and the tenant that a question is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) key: String,
    /// The default tenant if `None`.
    pub(super) tenant: Option<String>,
}

/// The kind of the identities of keys, a label of metrics.
const KIND: &str = "key";

/// The longest key, in bytes. Every key that is counted stays in memory for a while.
const MAX_KEY: usize = 1_024;

/// The prefix of the keys of users.
const USER: &str = "user:";

impl Question {
    /// The key and the tenant, if this caller may ask for them.
    pub(super) fn subject(&self, caller: &Caller) -> Result<Subject, Refusal> {
        match caller {
            Caller::Anybody | Caller::Operator | Caller::Envoy => Ok(Subject {
                key: self.named_key()?,
                tenant: self.tenant.clone(),
            }),
            Caller::Tenant(tenant) => Ok(Subject {
                key: self.named_key()?,
                tenant: self.own_tenant(Some(tenant))?,
            }),
            Caller::User { tenant, subject } => Ok(Subject {
                key: self.own_key(subject)?,
                tenant: self.own_tenant(tenant.as_ref())?,
            }),
        }
    }

    fn named_key(&self) -> Result<String, Refusal> {
        let key = self.key.clone();
        key.ok_or_else(|| Refusal::invalid("key", "is missing"))
    }

    /// The key of the user that the caller is.
    fn own_key(&self, subject: &str) -> Result<String, Refusal> {
        match &self.key {
            Some(key) if key != subject && key.strip_prefix(USER) != Some(subject) => {
                let problem = "a user may only ask for its own key: leave it out";
                Err(Refusal::forbidden("key", problem))
            }
            _ => Ok(format!("{USER}{subject}")),
        }
    }

    fn own_tenant(&self, own: Option<&String>) -> Result<Option<String>, Refusal> {
        match &self.tenant {
            Some(tenant) if Some(tenant) != own => {
                let problem = "the token belongs to another tenant: leave it out";
                Err(Refusal::forbidden("tenant", problem))
            }
            _ => Ok(own.cloned()),
        }
    }
}

/// The identity of a key: a user for `user:42`, a key for all others.
pub(super) fn identity(key: &str) -> Result<Identity, Refusal> {
    match key.strip_prefix(USER) {
        _ if key.is_empty() => Err(Refusal::invalid("key", "must not be empty")),
        _ if key.len() > MAX_KEY => Err(Refusal::invalid(
            "key",
            format!("has {} bytes: at most {MAX_KEY} are allowed", key.len()),
        )),
        Some("") => Err(Refusal::invalid("key", "names no user after `user:`")),
        Some(user) => Ok(Identity::user(user)),
        None => Ok(Identity::new(KIND, key).expect("a good kind")),
    }
}

/// The decision on a question, for every protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// The wait until the cost fits; `None` if it exceeds the capacity.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) reset_after: Duration,
    pub(crate) degraded: bool,
}

impl From<&Decision<'_>> for Answer {
    fn from(decision: &Decision<'_>) -> Self {
        Self {
            allowed: decision.is_allowed(),
            limit: decision.capacity(),
            remaining: decision.remaining(),
            retry_after: decision.retry_after(),
            reset_after: decision.reset_after(),
            degraded: decision.is_degraded(),
        }
    }
}

/// Whole milliseconds, rounded up: never so few that it is still too early.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    let milliseconds = duration.as_micros().div_ceil(1_000);
    u64::try_from(milliseconds).unwrap_or(u64::MAX)
}

/// Returns the outcome of a request, as a label of metrics.
pub(crate) fn outcome(answer: &Result<Answer, Refusal>) -> &'static str {
    match answer {
        Ok(answer) if answer.allowed => "allowed",
        Ok(_) => "denied",
        Err(refusal) => refusal.outcome(),
    }
}
