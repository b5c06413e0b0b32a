use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use tollgate::{Limits, NameError, Quota, Scope};

/// The configured limits of tiers, tenants and keys.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    /// The limits of keys without more particular limits.
    pub(crate) default: Limits,
    /// The tenant of requests that name none.
    pub(crate) default_tenant: Scope,
    pub(crate) tiers: HashMap<String, Limits>,
    pub(crate) tenants: HashMap<String, Tenant>,
}

/// A tenant of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    /// Separates the tenant's counts from the counts of other tenants.
    pub(crate) scope: Scope,
    pub(crate) tier: Option<String>,
    pub(crate) limits: Option<Limits>,
    /// The limits of single keys.
    pub(crate) keys: HashMap<String, Limits>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            default: Quota::per_minute(60).into(),
            default_tenant: Scope::default(),
            tiers: HashMap::new(),
            tenants: HashMap::new(),
        }
    }
}

impl Catalog {
    /// Returns the scope of a tenant's counts: the default tenant's if no tenant is named.
    pub(crate) fn scope_of(&self, tenant: Option<&str>) -> Result<Scope, NameError> {
        match tenant {
            None => Ok(self.default_tenant.clone()),
            // Cloning the scope of a known tenant is cheaper than checking and hashing its name.
            Some(name) => match self.tenants.get(name) {
                Some(tenant) => Ok(tenant.scope.clone()),
                None => Scope::new(name),
            },
        }
    }

    /// Returns the configured limits of exactly this subject.
    pub(crate) fn get(&self, subject: &Subject) -> Option<&Limits> {
        match subject {
            Subject::Tier(tier) => self.tiers.get(tier),
            Subject::Tenant(tenant) => self.tenants.get(tenant)?.limits.as_ref(),
            Subject::Key { tenant, key } => self.tenants.get(tenant)?.keys.get(key),
        }
    }

    /// Returns every configured limit, in no particular order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Subject, &Limits)> {
        let tiers = self.tiers.iter();
        let tiers = tiers.map(|(name, limits)| (Subject::Tier(name.clone()), limits));
        let tenants = self.tenants.iter().flat_map(|(name, tenant)| {
            let own = tenant.limits.as_ref();
            let own = own.map(|limits| (Subject::Tenant(name.clone()), limits));
            let keys = tenant.keys.iter().map(|(key, limits)| {
                let (tenant, key) = (name.clone(), key.clone());
                (Subject::Key { tenant, key }, limits)
            });
            own.into_iter().chain(keys)
        });
        tiers.chain(tenants)
    }

    /// Says why no configured limit or caller may belong to this subject, and the fix. Returns `None`
    /// if the configuration knows the subject.
    pub(crate) fn unknown(&self, subject: &Subject) -> Option<String> {
        let is_known = |tenant: &str| {
            self.tenants.contains_key(tenant) || tenant == self.default_tenant.as_str()
        };
        match subject {
            Subject::Tier(tier) if !self.tiers.contains_key(tier) => Some(format!(
                "the configuration has no tier {tier:?}, so no tenant is in it: add it to [tiers] or \
                 correct the name"
            )),
            Subject::Tenant(tenant) | Subject::Key { tenant, .. } if !is_known(tenant) => {
                Some(format!(
                    "the configuration has no tenant {tenant:?}: add [tenants.{tenant:?}] or correct \
                     the name"
                ))
            }
            Subject::Key { tenant, key } if self.get(subject).is_none() => Some(format!(
                "the configuration has no key {key:?} in tenant {tenant:?}: add it to \
                 [tenants.{tenant:?}.keys], or check that callers send exactly this key"
            )),
            _ => None,
        }
    }
}

/// A tier, a tenant or a key that a limit is for. As text: `tenants/acme`, `tiers/pro`,
/// `keys/acme/user:42`. A key may be any text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Tier(String),
    Tenant(String),
    Key { tenant: String, key: String },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(name) => write!(f, "tiers/{name}"),
            Self::Tenant(name) => write!(f, "tenants/{name}"),
            Self::Key { tenant, key } => write!(f, "keys/{tenant}/{key}"),
        }
    }
}

/// The error that a text is not a subject.
#[derive(Debug)]
pub(crate) struct SubjectError(String);

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a subject: write tenants/<tenant>, tiers/<tier> or keys/<tenant>/<key>",
            self.0
        )
    }
}

impl std::error::Error for SubjectError {}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
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
        subject.ok_or_else(|| SubjectError(text.to_owned()))
    }
}
