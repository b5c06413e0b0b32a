use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;

use tollgate::Limits;

use super::configured::{ConfiguredLimits, LimitSubject};

/// The overrides in the memory of this process.
#[derive(Debug, Default)]
pub(super) struct OverrideTable {
    /// By the text of their subjects, which is the order of pages.
    entries: BTreeMap<String, Override>,
    // Copies of the limits, for lookups that neither allocate nor compare long common prefixes.
    // Each check does three lookups.
    tiers: HashMap<String, Limits>,
    tenants: HashMap<String, Limits>,
    /// By tenant, then key.
    keys: HashMap<String, HashMap<String, Limits>>,
}

/// A limit that was set at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) limits: Limits,
    /// The revision of the write that set it.
    pub(crate) version: String,
}

impl OverrideTable {
    /// Returns the limits of a key: of the key itself, else of its tenant, else of the tenant's
    /// tier, else the default. At each step an override takes precedence over the configured
    /// limits.
    pub(super) fn limits_of<'a>(
        &'a self,
        configured: &'a ConfiguredLimits,
        tenant: &str,
        key: &str,
    ) -> &'a Limits {
        let configured_tenant = configured.tenants.get(tenant);
        let key_limits = || {
            let configured = || configured_tenant?.keys.get(key);
            self.key_limits(tenant, key).or_else(configured)
        };
        let tenant_limits = || {
            let configured = || configured_tenant?.limits.as_ref();
            self.tenant_limits(tenant).or_else(configured)
        };
        let tier_limits = || {
            let tier = configured_tenant?.tier.as_ref()?;
            let configured = || configured.tiers.get(tier);
            self.tier_limits(tier).or_else(configured)
        };
        key_limits()
            .or_else(tenant_limits)
            .or_else(tier_limits)
            .unwrap_or(&configured.default)
    }

    fn tier_limits(&self, tier: &str) -> Option<&Limits> {
        self.tiers.get(tier)
    }

    fn tenant_limits(&self, tenant: &str) -> Option<&Limits> {
        self.tenants.get(tenant)
    }

    fn key_limits(&self, tenant: &str, key: &str) -> Option<&Limits> {
        self.keys.get(tenant)?.get(key)
    }

    pub(super) fn get(&self, subject: &LimitSubject) -> Option<&Override> {
        self.entries.get(&subject.to_string())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the first `count` overrides whose subjects begin with `prefix` and come after
    /// `after`, in the order of their text.
    pub(super) fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        count: usize,
    ) -> Vec<(String, Override)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(subject, _)| subject.starts_with(prefix))
            .take(count)
            .map(|(subject, entry)| (subject.clone(), entry.clone()))
            .collect()
    }

    /// Sets the override of each subject, in order, or deletes it if the override is `None`.
    pub(super) fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (LimitSubject, Option<Override>)>,
    ) {
        for (subject, entry) in changes {
            self.set(subject, entry);
        }
    }

    fn set(&mut self, subject: LimitSubject, entry: Option<Override>) {
        let text = subject.to_string();
        match entry {
            Some(entry) => {
                self.insert(subject, entry.limits.clone());
                self.entries.insert(text, entry);
            }
            None => {
                self.remove(&subject);
                self.entries.remove(&text);
            }
        }
    }

    fn insert(&mut self, subject: LimitSubject, limits: Limits) {
        match subject {
            LimitSubject::Tier(tier) => self.tiers.insert(tier, limits),
            LimitSubject::Tenant(tenant) => self.tenants.insert(tenant, limits),
            LimitSubject::Key { tenant, key } => {
                self.keys.entry(tenant).or_default().insert(key, limits)
            }
        };
    }

    fn remove(&mut self, subject: &LimitSubject) {
        match subject {
            LimitSubject::Tier(tier) => {
                self.tiers.remove(tier);
            }
            LimitSubject::Tenant(tenant) => {
                self.tenants.remove(tenant);
            }
            LimitSubject::Key { tenant, key } => {
                if let Some(keys) = self.keys.get_mut(tenant) {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.keys.remove(tenant);
                    }
                }
            }
        }
    }
}

/// A precondition of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// The subject has no override.
    Absent,
    /// The subject has an override.
    Present,
    /// The subject's override has this version.
    Version(String),
}

/// The error of a write.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The condition does not hold.
    Conflict,
    /// There is no override to delete.
    Missing,
    /// Redis did not confirm the write, and may have applied it.
    Unavailable(redis::RedisError),
}

/// An applied write.
pub(super) struct Written {
    pub(super) version: String,
    /// The revision before this write.
    pub(super) previous: Option<String>,
}

impl Condition {
    pub(super) fn check(&self, version: Option<&str>) -> Result<(), WriteError> {
        let holds = match self {
            Self::None => true,
            Self::Absent => version.is_none(),
            Self::Present => version.is_some(),
            Self::Version(expected) => version == Some(expected),
        };
        if holds {
            Ok(())
        } else {
            Err(WriteError::Conflict)
        }
    }
}

/// Returns a random text that tells the versions of two writes apart.
pub(super) fn random() -> String {
    format!("{:x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tollgate::Quota;

    use super::*;

    fn map(subjects: &[&str]) -> OverrideTable {
        let mut map = OverrideTable::default();
        for (index, subject) in subjects.iter().enumerate() {
            let entry = Override {
                limits: Quota::per_day(7).into(),
                version: index.to_string(),
            };
            map.set(subject.parse().unwrap(), Some(entry));
        }
        map
    }

    fn page(map: &OverrideTable, prefix: &str, after: Option<&str>, count: usize) -> Vec<String> {
        let page = map.page(prefix, after, count).into_iter();
        page.map(|(subject, _)| subject).collect()
    }

    #[test]
    fn pages_follow_the_text_of_subjects() {
        let all = ["keys/a-b/1", "keys/a/1", "keys/a/2", "keys/b/1", "tiers/a"];
        let map = map(&[all[4], all[2], all[0], all[3], all[1]]);
        assert_eq!(page(&map, "", None, 9), all);
        assert_eq!(page(&map, "", Some(all[1]), 2), all[2..4]);
        assert_eq!(page(&map, "keys/a/", None, 9), all[1..3]);
        assert_eq!(page(&map, "keys/a/", Some(all[1]), 9), all[2..3]);
        assert_eq!(
            page(&map, "keys/a/", Some("keys/a"), 9),
            all[1..3],
            "before the prefix"
        );
        assert!(page(&map, "keys/a/", Some("tiers/a"), 9).is_empty());
        assert!(page(&map, "tenants/", None, 9).is_empty());
    }

    #[test]
    fn deleted_override_leaves_nothing() {
        let subjects = ["tiers/a", "tenants/a", "keys/a/1"];
        let mut map = map(&subjects);
        assert!(map.tier_limits("a").is_some() && map.tenant_limits("a").is_some());
        assert!(map.key_limits("a", "1").is_some() && map.key_limits("a", "2").is_none());
        for subject in subjects {
            let subject = subject.parse().unwrap();
            map.set(subject, None);
        }
        assert_eq!(map.len(), 0);
        assert!(map.tiers.is_empty() && map.tenants.is_empty() && map.keys.is_empty());
    }
}
