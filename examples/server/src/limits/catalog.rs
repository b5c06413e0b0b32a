//! The limits that the configuration names.

use std::collections::HashMap;

use tollgate::{Limits, Quota, Scope};

/// Every limit of the configuration, by whom it is for.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    /// For whoever has no other.
    pub(crate) default: Limits,
    /// The tenant of those who name none.
    pub(crate) default_tenant: String,
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
            default_tenant: "default".to_owned(),
            tiers: HashMap::new(),
            tenants: HashMap::new(),
        }
    }
}

impl Catalog {
    /// The limits of a key: its own, or its tenant's, or those of the tenant's tier, or the default.
    pub(crate) fn limits_of(&self, tenant: &str, key: &str) -> &Limits {
        let Some(tenant) = self.tenants.get(tenant) else {
            return &self.default;
        };
        let of_key = tenant.keys.get(key);
        let of_tenant = || tenant.limits.as_ref();
        let of_tier = || self.tiers.get(tenant.tier.as_ref()?);
        of_key
            .or_else(of_tenant)
            .or_else(of_tier)
            .unwrap_or(&self.default)
    }
}
