//! A request to decide, its identity, and the decision on it.

use std::time::Duration;

use tollgate::{Decision, Identity, Kind, Limits};

use crate::authentication::Principal;
use crate::error::ApiError;

/// A request to decide, independent of its protocol.
#[derive(Clone, Debug)]
pub(crate) struct DecisionRequest {
    /// The key to charge. Only a user may leave it out, and is charged by its own key.
    pub(crate) key: Option<String>,
    /// The tenant of the key. `None` stands for the tenant of the principal, or else the default tenant.
    pub(crate) tenant: Option<String>,
    /// The limits that the caller gives. `None` stands for the limits of the configuration and of run
    /// time.
    pub(crate) limits: Option<Limits>,
    pub(crate) cost: u32,
}

/// The key of a request, and its tenant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TenantKey {
    pub(super) key: String,
    /// `None` stands for the default tenant.
    pub(super) tenant: Option<String>,
}

/// The kind of identity of keys that name no user. It is the label `identity` in the library's metrics.
const KEY_KIND: Kind = Kind::new("key");

/// The maximum length of a key, in bytes.
const MAX_KEY: usize = 1_024;

/// The prefix of the keys of users.
const USER_PREFIX: &str = "user:";

impl DecisionRequest {
    /// Returns the key and the tenant, if the principal may check them.
    pub(super) fn target(&self, principal: &Principal) -> Result<TenantKey, ApiError> {
        match principal {
            Principal::Anonymous | Principal::Operator | Principal::Envoy => Ok(TenantKey {
                key: self.required_key()?,
                tenant: self.tenant.clone(),
            }),
            Principal::Tenant(tenant) => Ok(TenantKey {
                key: self.required_key()?,
                tenant: self.allowed_tenant(Some(tenant))?,
            }),
            Principal::User { tenant, subject } => Ok(TenantKey {
                key: self.user_key(subject)?,
                tenant: self.allowed_tenant(tenant.as_ref())?,
            }),
        }
    }

    fn required_key(&self) -> Result<String, ApiError> {
        let key = self.key.clone();
        key.ok_or_else(|| ApiError::invalid("key", "is missing"))
    }

    /// Returns the key of a user, who may not check any other.
    fn user_key(&self, subject: &str) -> Result<String, ApiError> {
        match &self.key {
            Some(key) if key != subject && key.strip_prefix(USER_PREFIX) != Some(subject) => {
                let problem = format!("a JWT may check only `{USER_PREFIX}{subject}`: omit `key`");
                Err(ApiError::forbidden_field("key", problem))
            }
            _ => Ok(format!("{USER_PREFIX}{subject}")),
        }
    }

    fn allowed_tenant(&self, own: Option<&String>) -> Result<Option<String>, ApiError> {
        match &self.tenant {
            Some(tenant) if Some(tenant) != own => {
                let problem = match own {
                    Some(own) => {
                        format!("the token is for tenant `{own}`: omit `tenant`, or send that name")
                    }
                    None => "the token is for the default tenant: omit `tenant`".to_owned(),
                };
                Err(ApiError::forbidden_field("tenant", problem))
            }
            _ => Ok(own.cloned()),
        }
    }
}

/// Returns the identity of a key: a user for a key such as `user:42`.
pub(super) fn identity(key: &str) -> Result<Identity, ApiError> {
    match key.strip_prefix(USER_PREFIX) {
        _ if key.is_empty() => Err(ApiError::invalid("key", "must not be empty")),
        _ if key.len() > MAX_KEY => Err(ApiError::invalid(
            "key",
            format!("has {} bytes: at most {MAX_KEY} are allowed", key.len()),
        )),
        Some("") => Err(ApiError::invalid("key", "names no user after `user:`")),
        Some(user) => Ok(Identity::user(user)),
        None => Ok(Identity::new(&KEY_KIND, key)),
    }
}

/// The decision on a request, independent of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecisionResponse {
    pub(crate) allowed: bool,
    pub(crate) capacity: u32,
    pub(crate) remaining: u32,
    /// The time until the cost fits. `None` if the cost exceeds the capacity.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) reset_after: Duration,
    pub(crate) degraded: bool,
}

impl From<&Decision<'_>> for DecisionResponse {
    fn from(decision: &Decision<'_>) -> Self {
        Self {
            allowed: decision.is_allowed(),
            capacity: decision.capacity(),
            remaining: decision.remaining(),
            retry_after: decision.retry_after(),
            reset_after: decision.reset_after(),
            degraded: decision.is_degraded(),
        }
    }
}

/// Returns whole milliseconds, rounded up, so that a client does not retry too early.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    let milliseconds = duration.as_micros().div_ceil(1_000);
    u64::try_from(milliseconds).unwrap_or(u64::MAX)
}

/// Returns the outcome of a request, as a label of metrics.
pub(crate) fn outcome(result: &Result<DecisionResponse, ApiError>) -> &'static str {
    match result {
        Ok(response) if response.allowed => "allowed",
        Ok(_) => "denied",
        Err(error) => error.outcome(),
    }
}
