//! Overrides in Redis. Two scripts write and read them, so that each write and each page is atomic.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    RedisError, RedisResult,
};
use tokio::sync::Mutex;
use tollgate::Limits;

use super::configured::LimitSubject;
use super::override_table::{Condition, Override, WriteError, Written, random};

const WRITE: &str = include_str!("write.lua");
const READ: &str = include_str!("read.lua");

/// The timeout of connecting, and of each command.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Overrides in a page. A page blocks Redis for about 2 ms.
const PAGE_SIZE: usize = 1_000;

/// Writes in the history. A replica that has missed more writes reads every override again. The
/// number also bounds the deleted subjects in Redis.
const HISTORY: usize = 10_000;

/// The overrides of every server that uses the same Redis and prefix.
pub(super) struct RedisOverrides {
    client: Client,
    /// The keys of the scripts, which `write.lua` describes. They share a hash tag, so that a Redis
    /// Cluster or a sharding proxy keeps them on one server.
    keys: [String; 3],
    /// Opened by the first command, and again after the connection failed.
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// A page of the changes since a revision.
pub(super) struct Page {
    /// The last write when the page was read, if there was any.
    pub(super) revision: Option<String>,
    /// Whether this is the first page of all overrides, not of the changes alone.
    pub(super) is_start: bool,
    /// The cursor of the next page, if there is one.
    pub(super) next: Option<String>,
    /// Each changed subject, with its override unless that was deleted.
    pub(super) changes: Vec<(LimitSubject, Option<Override>)>,
}

/// The reply of `read.lua`. Subjects and values are bytes, since another program may write text
/// that is not UTF-8.
type RawPage = (String, bool, String, Vec<Vec<u8>>, Vec<Option<Vec<u8>>>);

impl fmt::Debug for RedisOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOverrides")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl RedisOverrides {
    pub(super) fn new(url: &str, prefix: &str) -> RedisResult<Self> {
        let server = url.into_connection_info()?;
        // The documented ACL does not permit CLIENT SETINFO, and Redis would log each attempt.
        let login = server.redis_settings().clone().set_skip_set_lib_name();
        Ok(Self {
            client: Client::open(server.set_redis_settings(login))?,
            keys: ["", ":changes", ":history"].map(|key| format!("{prefix}:{{limits}}{key}")),
            connection: Mutex::default(),
        })
    }

    /// Returns the address of Redis, without the password.
    pub(super) fn address(&self) -> &ConnectionAddr {
        self.client.get_connection_info().addr()
    }

    /// Returns the revision of the last write.
    pub(super) async fn revision(&self) -> RedisResult<Option<String>> {
        self.query(&Cmd::hget(&self.keys[0], "revision")).await
    }

    /// Reads a page of the changes since a revision, or of all overrides if Redis does not know
    /// that revision.
    pub(super) async fn page(
        &self,
        known: Option<&str>,
        cursor: Option<&str>,
    ) -> RedisResult<Page> {
        let mut command = self.script(READ);
        command
            .arg(known.unwrap_or_default())
            .arg(cursor.unwrap_or_default())
            .arg(PAGE_SIZE);
        let (revision, is_start, next, subjects, values): RawPage = self.query(&command).await?;
        let changes = subjects.iter().zip(values);
        let changes = changes.filter_map(|(subject, value)| self.change(subject, value.as_deref()));
        Ok(Page {
            revision: Some(revision).filter(|revision| !revision.is_empty()),
            is_start,
            next: Some(next).filter(|next| !next.is_empty()),
            changes: changes.collect(),
        })
    }

    pub(super) async fn write(
        &self,
        subject: &LimitSubject,
        limits: Option<&Limits>,
        condition: &Condition,
    ) -> Result<Written, WriteError> {
        let limits = limits.map(|limits| serde_json::to_string(limits).expect("limits are JSON"));
        let (kind, version) = match condition {
            Condition::None => ("none", ""),
            Condition::Absent => ("absent", ""),
            Condition::Present => ("present", ""),
            Condition::Version(version) => ("version", version.as_str()),
        };
        let mut command = self.script(WRITE);
        command
            .arg(subject.to_string())
            .arg(limits.unwrap_or_default())
            .arg(kind)
            .arg(version)
            .arg(random())
            .arg(HISTORY);
        let reply = self.query(&command).await;
        let (outcome, version, previous): (String, String, String) =
            reply.map_err(WriteError::Unavailable)?;
        match outcome.as_str() {
            "written" => Ok(Written {
                version,
                previous: Some(previous).filter(|previous| !previous.is_empty()),
            }),
            "missing" => Err(WriteError::Missing),
            _ => Err(WriteError::Conflict),
        }
    }

    fn script(&self, script: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(self.keys.len()).arg(&self.keys);
        command
    }

    /// Reads a subject and its value. An unreadable value counts as a deleted override, and an
    /// unreadable subject is skipped.
    fn change(
        &self,
        subject: &[u8],
        value: Option<&[u8]>,
    ) -> Option<(LimitSubject, Option<Override>)> {
        let readable = str::from_utf8(subject)
            .ok()
            .and_then(|text| text.parse().ok());
        let entry = value.map(entry);
        if readable.is_none() || entry == Some(None) {
            tracing::error!(
                key = self.keys[0],
                field = %subject.escape_ascii(),
                "skipped an unreadable override in Redis: delete the field or set the limit again"
            );
        }
        Some((readable?, entry.flatten()))
    }

    /// Sends a command once, without a retry.
    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut connection = self.connection().await?;
        let reply = command.query_async(&mut connection).await;
        if reply.as_ref().is_err_and(needs_new_connection) {
            *self.connection.lock().await = None;
        }
        reply
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let new = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        Ok(connection.insert(new.await?).clone())
    }
}

fn needs_new_connection(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
        // The server has become a replica. Its host name may resolve to the new primary by now.
        || error.code() == Some("READONLY")
}

fn entry(value: &[u8]) -> Option<Override> {
    let (version, limits) = str::from_utf8(value).ok()?.split_once(' ')?;
    Some(Override {
        limits: serde_json::from_str(limits).ok()?,
        version: version.to_owned(),
    })
}
