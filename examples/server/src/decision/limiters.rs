//! The library's limiters that decide requests, made from the settings.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use tollgate::{Limiter, LocalStore, RedisStore};

use crate::configuration::{ReloadableSettings, StoreKind, StoreSettings};

/// Makes a limiter whose table in the process has this capacity, in entries. With Redis, all limiters
/// share one store.
type MakeLimiter = dyn Fn(usize) -> Limiter + Send + Sync;

/// The limiters of Envoy, of each configured tenant, and of all other callers.
///
/// Each limiter has a table of its own in the process, which is the store without Redis and the fallback
/// with Redis. A full table evicts entries. With separate tables, the callers of one tenant cannot evict
/// the entries of another.
#[derive(Clone)]
pub(crate) struct Limiters {
    make: Arc<MakeLimiter>,
    /// The configured capacity in entries, which the tables share at start. Tables of tenants that a
    /// reload adds come on top.
    capacity: usize,
    others: Limiter,
    envoy: LazyLimiter,
    tenants: HashMap<String, LazyLimiter>,
}

/// A limiter that is made at its first use.
#[derive(Clone)]
struct LazyLimiter {
    capacity: usize,
    limiter: Arc<OnceLock<Limiter>>,
}

impl Limiters {
    /// Makes limiters for the settings.
    pub(crate) fn new(
        store: &StoreSettings,
        settings: &ReloadableSettings,
    ) -> anyhow::Result<Self> {
        let deadline = store.deadline;
        let (make, capacity): (Arc<MakeLimiter>, _) = match &store.kind {
            StoreKind::Local { capacity } => {
                check_memory("capacity", *capacity)?;
                let make = move |capacity| {
                    let store = LocalStore::with_capacity(capacity);
                    Limiter::builder(store).deadline(deadline).build()
                };
                (Arc::new(make), *capacity)
            }
            StoreKind::Redis {
                url,
                prefix,
                connections,
                fallback_capacity,
                replicas,
            } => {
                check_memory("fallback_capacity", *fallback_capacity)?;
                let store = RedisStore::builder(url.reveal())
                    .prefix(prefix)
                    .connections(*connections)
                    .build()?;
                let limiter = Limiter::builder(store)
                    .deadline(deadline)
                    .fallback_capacity(1)
                    .fallback_replicas(*replicas)
                    .build();
                let make = move |capacity| limiter.clone().separate_fallback(capacity);
                (Arc::new(make), *fallback_capacity)
            }
        };
        Ok(Self::with_capacity(make, capacity, settings))
    }

    /// Makes limiters whose tables have equal shares of the capacity.
    fn with_capacity(
        make: Arc<MakeLimiter>,
        capacity: usize,
        settings: &ReloadableSettings,
    ) -> Self {
        let per_table = capacity_per_table(capacity, settings);
        Self {
            others: make(per_table),
            envoy: LazyLimiter::new(per_table),
            tenants: tenant_limiters(settings, |_| LazyLimiter::new(per_table)),
            make,
            capacity,
        }
    }

    /// Returns the limiters for changed settings. A tenant that the settings still contain keeps its
    /// limiter, with the entries and the capacity of its table.
    pub(super) fn for_changed_settings(&self, settings: &ReloadableSettings) -> Self {
        let per_table = capacity_per_table(self.capacity, settings);
        let known = |name: &str| self.tenants.get(name).cloned();
        Self {
            tenants: tenant_limiters(settings, |name| {
                known(name).unwrap_or_else(|| LazyLimiter::new(per_table))
            }),
            ..self.clone()
        }
    }

    /// Returns the limiter of a configured tenant, or the limiter of all other callers.
    pub(super) fn of_tenant(&self, name: &str) -> &Limiter {
        let tenant = self.tenants.get(name);
        tenant.map_or(&self.others, |tenant| tenant.get(&*self.make))
    }

    /// Returns the limiter of Envoy's descriptors.
    pub(super) fn of_envoy(&self) -> &Limiter {
        self.envoy.get(&*self.make)
    }

    /// Returns the limiter of keys that belong to no configured tenant.
    pub(super) fn of_others(&self) -> &Limiter {
        &self.others
    }
}

/// Returns the capacity of each table.
fn capacity_per_table(capacity: usize, settings: &ReloadableSettings) -> usize {
    let envoy = usize::from(!settings.envoy.rules.is_empty());
    capacity / (1 + envoy + settings.configured_limits.tenants.len())
}

fn tenant_limiters(
    settings: &ReloadableSettings,
    limiter: impl Fn(&str) -> LazyLimiter,
) -> HashMap<String, LazyLimiter> {
    let names = settings.configured_limits.tenants.keys();
    names.map(|name| (name.clone(), limiter(name))).collect()
}

impl LazyLimiter {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            limiter: Arc::default(),
        }
    }

    fn get(&self, make: &MakeLimiter) -> &Limiter {
        self.limiter.get_or_init(|| make(self.capacity))
    }
}

impl fmt::Debug for Limiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiters")
            .field("capacity", &self.capacity)
            .field("tenants", &self.tenants.len())
            .finish_non_exhaustive()
    }
}

/// Returns an error if the memory does not suffice for a capacity. A failed allocation would abort
/// the process.
fn check_memory(field: &str, capacity: usize) -> anyhow::Result<()> {
    const ENTRY_SIZE: usize = 64;
    let mut entries = Vec::<[u8; ENTRY_SIZE]>::new();
    let reserved = entries.try_reserve_exact(capacity);
    reserved.map_err(|_| {
        let gigabytes = capacity.saturating_mul(ENTRY_SIZE).div_ceil(1_000_000_000);
        anyhow!(
            "store.{field} = {capacity} does not fit into memory: it needs {gigabytes} GB; choose \
             a smaller capacity"
        )
    })
}
