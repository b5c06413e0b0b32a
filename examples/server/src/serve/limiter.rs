//! Makes the limiters and the store of run-time limits that the configuration asks for.

use std::sync::Arc;

use anyhow::Context;
use tollgate::{Limiter, LocalStore, RedisStore};

use crate::configuration::{Rules, StoreKind, StoreSettings};
use crate::decide::{Limiters, MakeLimiter};
use crate::limits::Overrides;

pub(super) fn limiters(settings: &StoreSettings, rules: &Rules) -> anyhow::Result<Limiters> {
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
                .fallback_replicas(*replicas)
                .build();
            let make = move |capacity| limiter.clone().separate_fallback(capacity);
            (Arc::new(make), *fallback_capacity)
        }
    };
    Ok(Limiters::new(make, capacity, rules))
}

/// Refuses a capacity without enough memory for it. A failed allocation would abort the process.
fn check_memory(field: &str, capacity: usize) -> anyhow::Result<()> {
    let mut entries = Vec::<[u8; 64]>::new();
    let reserved = entries.try_reserve_exact(capacity);
    reserved.with_context(|| format!("store.{field} = {capacity} does not fit into memory"))
}

/// The run-time limits, which are stored beside the counts.
pub(super) fn overrides(settings: &StoreSettings) -> redis::RedisResult<Overrides> {
    match &settings.kind {
        StoreKind::Local { .. } => Ok(Overrides::in_memory()),
        StoreKind::Redis { url, prefix, .. } => Overrides::in_redis(url.reveal(), prefix),
    }
}
