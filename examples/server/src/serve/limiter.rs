//! Makes the limiter that the configuration asks for.

use tollgate::{Limiter, LocalStore, RedisConfigError, RedisStore};

use crate::configuration::{StoreKind, StoreSettings};

pub(super) fn limiter(settings: &StoreSettings) -> Result<Limiter, RedisConfigError> {
    let builder = match &settings.kind {
        StoreKind::Local { capacity } => Limiter::builder(LocalStore::with_capacity(*capacity)),
        StoreKind::Redis {
            url,
            prefix,
            connections,
            fallback_capacity,
            replicas,
        } => {
            let store = RedisStore::builder(url.reveal())
                .prefix(prefix)
                .connections(*connections)
                .build()?;
            Limiter::builder(store)
                .fallback_capacity(*fallback_capacity)
                .fallback_share(*replicas)
        }
    };
    Ok(builder.deadline(settings.deadline).build())
}
