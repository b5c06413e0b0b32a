use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;

use tollgate::Limits;

use super::configured::{Catalog, Subject};

/// All overrides that this process knows, updated in place.
#[derive(Debug, Default)]
pub(super) struct OverrideMap {
    /// By the subject's text, for pages in order.
    entries: BTreeMap<String, Override>,
    // The limits again, for lookups that neither allocate nor compare long common prefixes: a check
    // makes three.
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

impl OverrideMap {
    /// Returns the limits of a key: the key's own, else its tenant's, else those of the tenant's tier,
    /// else the default. At each step an override goes before the configured limits.
    pub(super) fn limits_of<'a>(
        &'a self,
        configured: &'a Catalog,
        tenant: &str,
        key: &str,
    ) -> &'a Limits {
        let configured_tenant = configured.tenants.get(tenant);
        let of_key = || {
            let configured = || configured_tenant?.keys.get(key);
            self.of_key(tenant, key).or_else(configured)
        };
        let of_tenant = || {
            let configured = || configured_tenant?.limits.as_ref();
            self.of_tenant(tenant).or_else(configured)
        };
        let of_tier = || {
            let tier = configured_tenant?.tier.as_ref()?;
            let configured = || configured.tiers.get(tier);
            self.of_tier(tier).or_else(configured)
        };
        of_key()
            .or_else(of_tenant)
            .or_else(of_tier)
            .unwrap_or(&configured.default)
    }

    fn of_tier(&self, tier: &str) -> Option<&Limits> {
        self.tiers.get(tier)
    }

    fn of_tenant(&self, tenant: &str) -> Option<&Limits> {
        self.tenants.get(tenant)
    }

    fn of_key(&self, tenant: &str, key: &str) -> Option<&Limits> {
        self.keys.get(tenant)?.get(key)
    }

    pub(super) fn get(&self, subject: &Subject) -> Option<&Override> {
        self.entries.get(&subject.to_string())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns up to `count` overrides in the order of their subjects' text. The subjects have this
    /// prefix and follow `after`.
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

    /// Sets the override of each subject, in order. `None` deletes it.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = (Subject, Option<Override>)>) {
        for (subject, entry) in changes {
            self.set(subject, entry);
        }
    }

    fn set(&mut self, subject: Subject, entry: Option<Override>) {
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

    fn insert(&mut self, subject: Subject, limits: Limits) {
        match subject {
            Subject::Tier(tier) => self.tiers.insert(tier, limits),
            Subject::Tenant(tenant) => self.tenants.insert(tenant, limits),
            Subject::Key { tenant, key } => {
                self.keys.entry(tenant).or_default().insert(key, limits)
            }
        };
    }

    fn remove(&mut self, subject: &Subject) {
        match subject {
            Subject::Tier(tier) => {
                self.tiers.remove(tier);
            }
            Subject::Tenant(tenant) => {
                self.tenants.remove(tenant);
            }
            Subject::Key { tenant, key } => {
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

/// Why a write was not done.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The condition does not hold.
    Conflict,
    /// There is no override to delete.
    Missing,
    /// Redis did not confirm the write, which may have been done.
    Unavailable(redis::RedisError),
}

/// A write that was done.
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

/// Returns text that differs from that of every other write.
pub(super) fn random() -> String {
    format!("{:x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tollgate::Quota;

    use super::*;

    fn map(subjects: &[&str]) -> OverrideMap {
        let mut map = OverrideMap::default();
        for (index, subject) in subjects.iter().enumerate() {
            let entry = Override {
                limits: Quota::per_day(7).into(),
                version: index.to_string(),
            };
            map.set(subject.parse().unwrap(), Some(entry));
        }
        map
    }

    fn page(map: &OverrideMap, prefix: &str, after: Option<&str>, count: usize) -> Vec<String> {
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
        assert!(map.of_tier("a").is_some() && map.of_tenant("a").is_some());
        assert!(map.of_key("a", "1").is_some() && map.of_key("a", "2").is_none());
        for subject in subjects {
            let subject = subject.parse().unwrap();
            map.set(subject, None);
        }
        assert_eq!(map.len(), 0);
        assert!(map.tiers.is_empty() && map.tenants.is_empty() && map.keys.is_empty());
    }
}
