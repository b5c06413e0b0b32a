use std::collections::HashMap;

use tollgate::Limits;

use super::subject::Subject;

/// The limits that were set at run time, as they were at some moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runtime {
    /// The last write that they know of; none if there was none.
    pub(super) revision: Option<String>,
    tiers: HashMap<String, Entry>,
    tenants: HashMap<String, Entry>,
    /// By tenant, then key.
    keys: HashMap<String, HashMap<String, Entry>>,
}

/// Limits, and the write that set them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) limits: Limits,
    pub(crate) version: String,
}

impl Runtime {
    pub(super) fn of_tier(&self, tier: &str) -> Option<&Limits> {
        self.tiers.get(tier).map(|entry| &entry.limits)
    }

    pub(super) fn of_tenant(&self, tenant: &str) -> Option<&Limits> {
        self.tenants.get(tenant).map(|entry| &entry.limits)
    }

    pub(super) fn of_key(&self, tenant: &str, key: &str) -> Option<&Limits> {
        self.keys.get(tenant)?.get(key).map(|entry| &entry.limits)
    }

    pub(crate) fn get(&self, subject: &Subject) -> Option<&Entry> {
        match subject {
            Subject::Tier(tier) => self.tiers.get(tier),
            Subject::Tenant(tenant) => self.tenants.get(tenant),
            Subject::Key { tenant, key } => self.keys.get(tenant)?.get(key),
        }
    }

    pub(super) fn insert(&mut self, subject: Subject, entry: Entry) {
        match subject {
            Subject::Tier(tier) => self.tiers.insert(tier, entry),
            Subject::Tenant(tenant) => self.tenants.insert(tenant, entry),
            Subject::Key { tenant, key } => self.keys.entry(tenant).or_default().insert(key, entry),
        };
    }

    pub(super) fn remove(&mut self, subject: &Subject) {
        match subject {
            Subject::Tier(tier) => self.tiers.remove(tier),
            Subject::Tenant(tenant) => self.tenants.remove(tenant),
            Subject::Key { tenant, key } => {
                let keys = self.keys.get_mut(tenant);
                keys.and_then(|keys| keys.remove(key))
            }
        };
    }

    /// All of them.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Subject, &Entry)> {
        let tiers = self.tiers.iter();
        let tiers = tiers.map(|(tier, entry)| (Subject::Tier(tier.clone()), entry));
        let tenants = self.tenants.iter();
        let tenants = tenants.map(|(tenant, entry)| (Subject::Tenant(tenant.clone()), entry));
        let keys = self.keys.iter().flat_map(|(tenant, keys)| {
            keys.iter().map(|(key, entry)| {
                let (tenant, key) = (tenant.clone(), key.clone());
                (Subject::Key { tenant, key }, entry)
            })
        });
        tiers.chain(tenants).chain(keys)
    }
}
