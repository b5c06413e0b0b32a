//! Makes what the configuration asks for.

use tollgate::{Limiter, LocalStore, RedisConfigError, RedisStore};

use crate::configuration::{StoreKind, StoreSettings};
use crate::limits::Book;

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

/// The book of run-time limits, beside the counts.
pub(super) fn book(settings: &StoreSettings) -> redis::RedisResult<Book> {
    match &settings.kind {
        StoreKind::Local { .. } => Ok(Book::in_memory()),
        StoreKind::Redis { url, prefix, .. } => Book::in_redis(url.reveal(), prefix),
    }
}
