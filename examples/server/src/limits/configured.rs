use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use tollgate::{Limits, NameError, Quota, Scope};

/// The tier, tenant or key that a limit is for. Its text is `tiers/pro`, `tenants/acme` or
/// `keys/acme/user:42`. A key is any text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LimitSubject {
    Tier(String),
    Tenant(String),
    Key { tenant: String, key: String },
}

impl fmt::Display for LimitSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(name) => write!(f, "tiers/{name}"),
            Self::Tenant(name) => write!(f, "tenants/{name}"),
            Self::Key { tenant, key } => write!(f, "keys/{tenant}/{key}"),
        }
    }
}

/// The error for a text that is not a subject.
#[derive(Debug)]
pub(crate) struct LimitSubjectError(String);

impl fmt::Display for LimitSubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a subject: write tenants/<tenant>, tiers/<tier> or keys/<tenant>/<key>",
            self.0
        )
    }
}

impl std::error::Error for LimitSubjectError {}

impl FromStr for LimitSubject {
    type Err = LimitSubjectError;

    fn from_str(text: &str) -> Result<Self, LimitSubjectError> {
        let name = |name: &str| Some(Scope::new(name).ok()?.as_str().to_owned());
        let subject = match text.split_once('/') {
            Some(("tiers", tier)) => name(tier).map(Self::Tier),
            Some(("tenants", tenant)) => name(tenant).map(Self::Tenant),
            Some(("keys", rest)) => rest.split_once('/').and_then(|(tenant, key)| {
                let tenant = name(tenant)?;
                let key = (!key.is_empty()).then(|| key.to_owned())?;
                Some(Self::Key { tenant, key })
            }),
            _ => None,
        };
        subject.ok_or_else(|| LimitSubjectError(text.to_owned()))
    }
}

/// Returns the problem of a text that is not the name of a tenant, and its fix.
pub(crate) fn invalid_tenant(name: &str) -> String {
    let shown: String = name.chars().take(80).collect();
    format!(
        "{shown:?} cannot be the name of a tenant: use 1 to 64 ASCII letters, digits, `.`, `_` and `-`"
    )
}

/// The configured limits of tiers, tenants and keys.
#[derive(Clone, Debug)]
pub(crate) struct ConfiguredLimits {
    /// The limits of keys without limits of their own, of their tenant or of its tier.
    pub(crate) default: Limits,
    /// The tenant of requests without a tenant.
    pub(crate) default_tenant: Scope,
    pub(crate) tiers: HashMap<String, Limits>,
    pub(crate) tenants: HashMap<String, Tenant>,
}

/// A configured tenant.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    /// Keeps the counts of the tenant apart from the counts of other tenants.
    pub(crate) scope: Scope,
    pub(crate) tier: Option<String>,
    pub(crate) limits: Option<Limits>,
    /// The limits of single keys.
    pub(crate) keys: HashMap<String, Limits>,
}

impl Default for ConfiguredLimits {
    fn default() -> Self {
        Self {
            default: Quota::per_minute(60).into(),
            default_tenant: Scope::default(),
            tiers: HashMap::new(),
            tenants: HashMap::new(),
        }
    }
}

impl ConfiguredLimits {
    /// Returns the scope of a tenant's counts. `None` stands for the default tenant.
    pub(crate) fn scope_of(&self, tenant: Option<&str>) -> Result<Scope, NameError> {
        match tenant {
            None => Ok(self.default_tenant.clone()),
            // To clone the scope of a configured tenant is cheaper than to check and hash a name.
            Some(name) => match self.tenants.get(name) {
                Some(tenant) => Ok(tenant.scope.clone()),
                None => Scope::new(name),
            },
        }
    }

    /// Returns the configured limits of a subject, without inherited limits.
    pub(crate) fn get(&self, subject: &LimitSubject) -> Option<&Limits> {
        match subject {
            LimitSubject::Tier(tier) => self.tiers.get(tier),
            LimitSubject::Tenant(tenant) => self.tenants.get(tenant)?.limits.as_ref(),
            LimitSubject::Key { tenant, key } => self.tenants.get(tenant)?.keys.get(key),
        }
    }

    /// Returns every configured limit, in no particular order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (LimitSubject, &Limits)> {
        let tiers = self.tiers.iter();
        let tiers = tiers.map(|(name, limits)| (LimitSubject::Tier(name.clone()), limits));
        let tenants = self.tenants.iter().flat_map(|(name, tenant)| {
            let own = tenant.limits.as_ref();
            let own = own.map(|limits| (LimitSubject::Tenant(name.clone()), limits));
            let keys = tenant.keys.iter().map(|(key, limits)| {
                let (tenant, key) = (name.clone(), key.clone());
                (LimitSubject::Key { tenant, key }, limits)
            });
            own.into_iter().chain(keys)
        });
        tiers.chain(tenants)
    }

    /// Returns a warning, with its fix, if the configuration does not contain the subject, so that
    /// its limits may never apply.
    pub(crate) fn unknown_subject(&self, subject: &LimitSubject) -> Option<String> {
        let is_known = |tenant: &str| {
            self.tenants.contains_key(tenant) || tenant == self.default_tenant.as_str()
        };
        match subject {
            LimitSubject::Tier(tier) if !self.tiers.contains_key(tier) => Some(format!(
                "the configuration has no tier {tier:?}, so no tenant is in it: add it to [tiers] or \
                 correct the name"
            )),
            LimitSubject::Tenant(tenant) | LimitSubject::Key { tenant, .. }
                if !is_known(tenant) =>
            {
                Some(format!(
                    "the configuration has no tenant {tenant:?}: add [tenants.{tenant:?}] or correct \
                     the name"
                ))
            }
            LimitSubject::Key { tenant, key } if self.get(subject).is_none() => Some(format!(
                "the configuration has no key {key:?} in tenant {tenant:?}: add it to \
                 [tenants.{tenant:?}.keys], or check that callers send exactly this key"
            )),
            _ => None,
        }
    }
}
