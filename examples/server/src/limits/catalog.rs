use std::collections::HashMap;

use tollgate::{Limits, NameError, Quota, Scope};

use super::map::OverrideMap;
use super::subject::Subject;

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

    /// Returns the limits of a key: the key's own, else its tenant's, else those of the tenant's tier,
    /// else the default. At each step an override goes before the configured limits.
    pub(super) fn limits_of<'a>(
        &'a self,
        overrides: &'a OverrideMap,
        tenant: &str,
        key: &str,
    ) -> &'a Limits {
        let configured = self.tenants.get(tenant);
        let of_key = || {
            let configured = || configured?.keys.get(key);
            overrides.of_key(tenant, key).or_else(configured)
        };
        let of_tenant = || {
            let configured = || configured?.limits.as_ref();
            overrides.of_tenant(tenant).or_else(configured)
        };
        let of_tier = || {
            let tier = configured?.tier.as_ref()?;
            overrides.of_tier(tier).or_else(|| self.tiers.get(tier))
        };
        of_key()
            .or_else(of_tenant)
            .or_else(of_tier)
            .unwrap_or(&self.default)
    }
}
