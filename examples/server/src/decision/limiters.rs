//! The limiters of the library that decide requests, and how the configuration asks for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use tollgate::{Limiter, LocalStore, RedisStore};

use crate::configuration::{Rules, StoreKind, StoreSettings};

/// Makes a limiter whose table in the process has room for this many counts. All of them share one
/// store, if there is a store outside of the process.
type MakeLimiter = dyn Fn(usize) -> Limiter + Send + Sync;

/// The limiters of Envoy, of each configured tenant, and of all other callers.
///
/// Each has a table of its own in the process: the counts where there is no Redis, and the fallback
/// where there is. A full table evicts counts, so no caller can make the server forget the counts of
/// another tenant.
#[derive(Clone)]
pub(crate) struct Limiters {
    make: Arc<MakeLimiter>,
    /// The counts of all tables together.
    capacity: usize,
    others: Limiter,
    envoy: Lazy,
    tenants: HashMap<String, Lazy>,
}

/// A limiter whose table is allocated at its first use.
#[derive(Clone)]
struct Lazy {
    capacity: usize,
    limiter: Arc<OnceLock<Limiter>>,
}

impl Limiters {
    /// Makes the limiters that the settings ask for.
    pub(crate) fn from_settings(settings: &StoreSettings, rules: &Rules) -> anyhow::Result<Self> {
        let deadline = settings.deadline;
        let (make, capacity): (Arc<MakeLimiter>, _) = match &settings.kind {
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
                    .fallback_share(*replicas)
                    .build();
                let make = move |capacity| limiter.clone().separate_fallback(capacity);
                (Arc::new(make), *fallback_capacity)
            }
        };
        Ok(Self::new(make, capacity, rules))
    }

    /// Limiters for these rules, whose tables have the same capacity.
    fn new(make: Arc<MakeLimiter>, capacity: usize, rules: &Rules) -> Self {
        let each = share(capacity, rules);
        Self {
            others: make(each),
            envoy: Lazy::new(each),
            tenants: tenants(rules, |_| Lazy::new(each)),
            make,
            capacity,
        }
    }

    /// Limiters for changed rules. Tenants that were known before keep their counts, so their tables
    /// keep their capacity.
    pub(crate) fn follow(&self, rules: &Rules) -> Self {
        let each = share(self.capacity, rules);
        let known = |name: &str| self.tenants.get(name).cloned();
        Self {
            tenants: tenants(rules, |name| known(name).unwrap_or_else(|| Lazy::new(each))),
            ..self.clone()
        }
    }

    /// The limiter of a tenant.
    pub(crate) fn of_tenant(&self, name: &str) -> &Limiter {
        let tenant = self.tenants.get(name);
        tenant.map_or(&self.others, |tenant| tenant.get(&*self.make))
    }

    /// The limiter of Envoy's descriptors.
    pub(crate) fn of_envoy(&self) -> &Limiter {
        self.envoy.get(&*self.make)
    }

    /// The limiter of callers of no configured tenant.
    pub(crate) fn of_others(&self) -> &Limiter {
        &self.others
    }
}

/// The capacity of each table.
fn share(capacity: usize, rules: &Rules) -> usize {
    let envoy = usize::from(!rules.envoy.rules.is_empty());
    capacity / (1 + envoy + rules.catalog.tenants.len())
}

fn tenants(rules: &Rules, limiter: impl Fn(&str) -> Lazy) -> HashMap<String, Lazy> {
    let names = rules.catalog.tenants.keys();
    names.map(|name| (name.clone(), limiter(name))).collect()
}

impl Lazy {
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

/// Refuses a capacity without enough memory for it. A failed allocation would abort the process.
fn check_memory(field: &str, capacity: usize) -> anyhow::Result<()> {
    let mut entries = Vec::<[u8; 64]>::new();
    let reserved = entries.try_reserve_exact(capacity);
    reserved.with_context(|| format!("store.{field} = {capacity} does not fit into memory"))
}
