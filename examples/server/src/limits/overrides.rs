use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tollgate::Limits;

use super::configured::{Catalog, Subject};
use super::override_table::{Condition, Override, OverrideMap, WriteError, Written, random};
use super::redis::RedisOverrides;
use crate::server_metrics;

/// How often changes that other replicas made are read.
const INTERVAL: Duration = Duration::from_millis(250);

/// The limits that are set at run time, in this process or shared through Redis.
#[derive(Clone, Debug)]
pub(crate) struct Overrides(Arc<State>);

#[derive(Debug)]
struct State {
    /// `None`: overrides are kept in this process only, and end with it.
    redis: Option<RedisOverrides>,
    map: RwLock<OverrideMap>,
    /// The last write that `map` contains. It stays locked from a request to Redis until `map` has the
    /// result, so that an older result never replaces a newer one.
    revision: tokio::sync::Mutex<Option<String>>,
    /// Whether the last read failed.
    is_outdated: AtomicBool,
}

impl Overrides {
    pub(crate) fn in_memory() -> Self {
        Self::new(None)
    }

    pub(crate) fn in_redis(url: &str, prefix: &str) -> redis::RedisResult<Self> {
        Ok(Self::new(Some(RedisOverrides::new(url, prefix)?)))
    }

    fn new(redis: Option<RedisOverrides>) -> Self {
        Self(Arc::new(State {
            redis,
            map: RwLock::default(),
            revision: tokio::sync::Mutex::default(),
            is_outdated: AtomicBool::new(false),
        }))
    }

    /// Whether changes of other replicas may be missing, since the last read failed.
    pub(crate) fn is_outdated(&self) -> bool {
        self.0.is_outdated.load(Ordering::Relaxed)
    }

    /// Returns the limits of a key, configured or set at run time.
    pub(crate) fn limits_of(&self, catalog: &Catalog, tenant: &str, key: &str) -> Limits {
        self.0.map().limits_of(catalog, tenant, key).clone()
    }

    pub(crate) fn get(&self, subject: &Subject) -> Option<Override> {
        self.0.map().get(subject).cloned()
    }

    /// Returns up to `count` overrides in the order of their subjects' text. The subjects have this
    /// prefix and follow `after`.
    pub(crate) fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        count: usize,
    ) -> Vec<(String, Override)> {
        self.0.map().page(prefix, after, count)
    }

    /// Refreshes at each interval, forever.
    pub(crate) async fn keep_fresh(self) {
        loop {
            self.refresh().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Reads all changes up to now. If that fails, the known overrides stay in force.
    pub(crate) async fn refresh(&self) {
        let state = &*self.0;
        let Some(redis) = &state.redis else {
            return;
        };
        let mut revision = state.revision.lock().await;
        let read = state.read_changes(redis, revision.clone()).await;
        let was_outdated = state.is_outdated.swap(read.is_err(), Ordering::Relaxed);
        match read {
            Ok(read) => {
                *revision = read;
                if was_outdated {
                    tracing::info!("run-time limits can be read again");
                }
            }
            Err(error) if !was_outdated => tracing::warn!(
                %error,
                "run-time limits cannot be read from Redis: the known ones stay in force"
            ),
            Err(_) => {}
        }
    }

    /// Sets an override, or deletes it if `limits` is `None`, and returns the write's revision. The
    /// change is in force in this process when this returns.
    pub(crate) async fn write(
        &self,
        subject: &Subject,
        limits: Option<&Limits>,
        condition: &Condition,
    ) -> Result<String, WriteError> {
        let state = &*self.0;
        let mut revision = state.revision.lock().await;
        let Written { version, previous } = match &state.redis {
            Some(redis) => redis.write(subject, limits, condition).await?,
            None => state.write_in_memory(subject, limits, condition, revision.clone())?,
        };
        let entry = limits.map(|limits| Override {
            limits: limits.clone(),
            version: version.clone(),
        });
        state.apply([(subject.clone(), entry)]);
        // If the read below fails, the next refresh must not take the older revision for current: Redis
        // may return to it by a failover that loses this write.
        let known = revision.take();
        *revision = match &state.redis {
            Some(redis) if previous != known => {
                state.read_changes(redis, known).await.unwrap_or_default()
            }
            _ => Some(version.clone()),
        };
        Ok(version)
    }
}

impl State {
    fn map(&self) -> RwLockReadGuard<'_, OverrideMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, OverrideMap> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, changes: impl IntoIterator<Item = (Subject, Option<Override>)>) {
        let mut map = self.map_mut();
        map.apply(changes);
        server_metrics::runtime_limits(map.len());
    }

    /// Checks whether a write may be done in this process, and returns its revision.
    fn write_in_memory(
        &self,
        subject: &Subject,
        limits: Option<&Limits>,
        condition: &Condition,
        previous: Option<String>,
    ) -> Result<Written, WriteError> {
        let map = self.map();
        let version = map.get(subject).map(|entry| entry.version.as_str());
        condition.check(version)?;
        if limits.is_none() && version.is_none() {
            return Err(WriteError::Missing);
        }
        let number = previous.as_deref().and_then(|last| last.split_once('-'));
        let number = number.and_then(|(number, _)| number.parse::<u64>().ok());
        Ok(Written {
            // The random part tells a version from one before a restart of this process.
            version: format!("{}-{}", number.unwrap_or(0) + 1, random()),
            previous,
        })
    }

    /// Brings the map from the known revision to the current one, which this returns.
    async fn read_changes(
        &self,
        redis: &RedisOverrides,
        mut known: Option<String>,
    ) -> redis::RedisResult<Option<String>> {
        // At most intervals nothing has changed, and this short reply is the whole cost.
        if redis.revision().await? == known {
            return Ok(known);
        }
        let mut cursor = None;
        let mut changes = Vec::new();
        let mut is_everything = false;
        loop {
            let page = redis.page(known.as_deref(), cursor.as_deref()).await?;
            if page.is_start {
                changes.clear();
                is_everything = true;
            }
            changes.extend(page.changes);
            known = page.revision;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        // Changes are applied after the last page, so that a failed read leaves the map as it was.
        if is_everything {
            let mut map = OverrideMap::default();
            map.apply(changes);
            server_metrics::runtime_limits(map.len());
            let old = mem::replace(&mut *self.map_mut(), map);
            // Freeing a large map takes milliseconds, and the lock is released by now.
            drop(old);
        } else {
            self.apply(changes);
        }
        Ok(known)
    }
}
