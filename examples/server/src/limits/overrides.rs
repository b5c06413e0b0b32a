use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tollgate::Limits;

use super::configured::{ConfiguredLimits, LimitSubject};
use super::override_table::{Condition, Override, OverrideTable, WriteError, Written, random};
use super::redis::RedisOverrides;
use crate::server_metrics;

/// How often the changes of other replicas are read.
const INTERVAL: Duration = Duration::from_millis(250);

/// The limits that are set at run time, in this process or shared through Redis.
#[derive(Clone, Debug)]
pub(crate) struct Overrides(Arc<State>);

#[derive(Debug)]
struct State {
    /// `None` if the overrides are in this process only, and end with it.
    redis: Option<RedisOverrides>,
    table: RwLock<OverrideTable>,
    /// The last write that `table` contains. The mutex is held from a request to Redis until
    /// `table` has the result, so that an older result never replaces a newer one.
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
            table: RwLock::default(),
            revision: tokio::sync::Mutex::default(),
            is_outdated: AtomicBool::new(false),
        }))
    }

    /// Returns whether the last read failed, so that changes of other replicas may be missing.
    pub(crate) fn is_outdated(&self) -> bool {
        self.0.is_outdated.load(Ordering::Relaxed)
    }

    /// Returns the limits of a key, configured or set at run time.
    pub(crate) fn limits_of(
        &self,
        configured_limits: &ConfiguredLimits,
        tenant: &str,
        key: &str,
    ) -> Limits {
        self.0
            .table()
            .limits_of(configured_limits, tenant, key)
            .clone()
    }

    pub(crate) fn get(&self, subject: &LimitSubject) -> Option<Override> {
        self.0.table().get(subject).cloned()
    }

    /// Returns the first `count` overrides whose subjects begin with `prefix` and come after
    /// `after`, in the order of their text.
    pub(crate) fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        count: usize,
    ) -> Vec<(String, Override)> {
        self.0.table().page(prefix, after, count)
    }

    /// Calls [`refresh`](Self::refresh) at each interval, forever.
    pub(crate) async fn keep_fresh(self) {
        loop {
            self.refresh().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Reads the changes of other replicas. If that fails, the known overrides stay in force.
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
            Err(error) if !was_outdated => {
                let known = match state.table().len() {
                    0 => "none".to_owned(),
                    count => count.to_string(),
                };
                tracing::warn!(
                    "run-time limits at redis {} cannot be read ({error}): using the last ones \
                     read ({known}); retrying",
                    redis.address()
                );
            }
            Err(_) => {}
        }
    }

    /// Sets an override, or deletes it if `limits` is `None`. Returns the revision of the write.
    /// The change is then in force in this process.
    pub(crate) async fn write(
        &self,
        subject: &LimitSubject,
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
        // If the read below fails, the revision becomes unknown, and the next refresh reads all
        // overrides. With the older revision, a refresh would see no change after a failover that
        // loses this write.
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
    fn table(&self) -> RwLockReadGuard<'_, OverrideTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, OverrideTable> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, changes: impl IntoIterator<Item = (LimitSubject, Option<Override>)>) {
        let mut table = self.table_mut();
        table.apply(changes);
        server_metrics::set_runtime_limits(table.len());
    }

    /// Checks the condition of a write in this process, and returns the revision of the write.
    fn write_in_memory(
        &self,
        subject: &LimitSubject,
        limits: Option<&Limits>,
        condition: &Condition,
        previous: Option<String>,
    ) -> Result<Written, WriteError> {
        let table = self.table();
        let version = table.get(subject).map(|entry| entry.version.as_str());
        condition.check(version)?;
        if limits.is_none() && version.is_none() {
            return Err(WriteError::Missing);
        }
        let number = previous.as_deref().and_then(|last| last.split_once('-'));
        let number = number.and_then(|(number, _)| number.parse::<u64>().ok());
        Ok(Written {
            // The random part tells versions before and after a restart apart.
            version: format!("{}-{}", number.unwrap_or(0) + 1, random()),
            previous,
        })
    }

    /// Updates the table from the known revision to the current one, and returns the current one.
    async fn read_changes(
        &self,
        redis: &RedisOverrides,
        mut known: Option<String>,
    ) -> redis::RedisResult<Option<String>> {
        // Usually nothing has changed, and a refresh costs this one command.
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
        // Changes are applied after the last page, so that a failed read leaves the table
        // unchanged.
        if is_everything {
            let mut table = OverrideTable::default();
            table.apply(changes);
            server_metrics::set_runtime_limits(table.len());
            let old = mem::replace(&mut *self.table_mut(), table);
            // To free a large table takes milliseconds, so it happens after the lock is released.
            drop(old);
        } else {
            self.apply(changes);
        }
        Ok(known)
    }
}
