//! The limits that the configuration names.

use std::collections::HashMap;

use tollgate::{Limits, NameError, Quota, Scope};

use super::runtime::Runtime;

/// Every limit of the configuration, by whom it is for.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    /// For whoever has no other.
    pub(crate) default: Limits,
    /// The tenant of those who name none.
    pub(crate) default_tenant: Scope,
    pub(crate) tiers: HashMap<String, Limits>,
    pub(crate) tenants: HashMap<String, Tenant>,
}

/// What the configuration says of a tenant.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    /// Keeps its counts apart from other tenants'.
    pub(crate) scope: Scope,
    pub(crate) tier: Option<String>,
    pub(crate) limits: Option<Limits>,
    /// Of single keys.
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
    /// What keeps a tenant's counts apart, and names it; of the default one if none is named.
    pub(crate) fn scope_of(&self, tenant: Option<&str>) -> Result<Scope, NameError> {
        match tenant {
            None => Ok(self.default_tenant.clone()),
            // One that is known need not be made again.
            Some(name) => match self.tenants.get(name) {
                Some(tenant) => Ok(tenant.scope.clone()),
                None => Scope::new(name),
            },
        }
    }
}

/// The limits of a key: its own, or its tenant's, or those of the tenant's tier, or the default.
/// Each of them as it was set at run time, or else as it is in the configuration.
pub(crate) fn limits_of<'a>(
    catalog: &'a Catalog,
    runtime: &'a Runtime,
    tenant: &str,
    key: &str,
) -> &'a Limits {
    let configured = catalog.tenants.get(tenant);
    let of_key = || {
        let configured = || configured?.keys.get(key);
        runtime.of_key(tenant, key).or_else(configured)
    };
    let of_tenant = || {
        let configured = || configured?.limits.as_ref();
        runtime.of_tenant(tenant).or_else(configured)
    };
    let of_tier = || {
        let tier = configured?.tier.as_ref()?;
        runtime.of_tier(tier).or_else(|| catalog.tiers.get(tier))
    };
    of_key()
        .or_else(of_tenant)
        .or_else(of_tier)
        .unwrap_or(&catalog.default)
}
