//! Run-time limits in Redis: one hash, which a script writes, so that every write is whole.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult,
};
use tokio::sync::Mutex;
use tollgate::Limits;

use super::book::{Condition, WriteError};
use super::runtime::{Entry, Runtime};
use super::subject::Subject;

const WRITE: &str = include_str!("write.lua");

/// Redis that is slower counts as Redis that is away.
const PATIENCE: Duration = Duration::from_millis(500);

/// The hash's field of the last write.
const REVISION: &str = "revision";

pub(crate) struct RedisBook {
    client: Client,
    key: String,
    /// None until it is needed, and after it failed.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl fmt::Debug for RedisBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBook")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl RedisBook {
    pub(super) fn new(url: &str, prefix: &str) -> RedisResult<Self> {
        let server = url.into_connection_info()?;
        // The documented user may not use CLIENT SETINFO, and each refusal would be in the server's log.
        let login = server.redis_settings().clone().set_skip_set_lib_name();
        Ok(Self {
            client: Client::open(server.set_redis_settings(login))?,
            // The counts' keys go on with a brace.
            key: format!("{prefix}:limits"),
            connection: Mutex::default(),
        })
    }

    pub(super) async fn read(&self, known: Option<&str>) -> RedisResult<Option<Runtime>> {
        let revision = Cmd::hget(&self.key, REVISION);
        let revision: Option<String> = self.query(&revision).await?;
        if revision.as_deref() == known {
            return Ok(None);
        }
        // Both the limits and the revision that they are of, since another write may have come.
        let fields = self.query(&Cmd::hgetall(&self.key)).await?;
        Ok(Some(runtime(fields)))
    }

    pub(super) async fn write(
        &self,
        subject: &Subject,
        limits: Option<&Limits>,
        condition: &Condition,
    ) -> Result<String, WriteError> {
        let limits = limits.map(|limits| serde_json::to_string(limits).expect("limits are JSON"));
        let (kind, version) = match condition {
            Condition::None => ("none", ""),
            Condition::Absent => ("absent", ""),
            Condition::Present => ("present", ""),
            Condition::Version(version) => ("version", version.as_str()),
        };
        let mut command = redis::cmd("EVAL");
        command.arg(WRITE).arg(1).arg(&self.key);
        command.arg(subject.to_string());
        command.arg(limits.unwrap_or_default());
        command
            .arg(kind)
            .arg(version)
            .arg(format!("{:x}", random()));
        let (outcome, version): (String, String) = self
            .query(&command)
            .await
            .map_err(WriteError::Unavailable)?;
        match outcome.as_str() {
            "written" => Ok(version),
            "missing" => Err(WriteError::Missing),
            _ => Err(WriteError::Conflict),
        }
    }

    /// Runs a command, at most once.
    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut connection = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(is_broken) {
            *self.connection.lock().await = None;
        }
        answer
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let new = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        Ok(connection.insert(new.await?).clone())
    }
}

/// Whether another connection may do better.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
        // A server that is a replica now: the name may lead to another.
        || error.code() == Some("READONLY")
}

fn runtime(mut fields: HashMap<String, String>) -> Runtime {
    let mut runtime = Runtime::default();
    runtime.revision = fields.remove(REVISION);
    for (name, value) in fields {
        let Ok(subject) = name.parse() else {
            // Such as the number of writes.
            continue;
        };
        match entry(&value) {
            Some(entry) => runtime.insert(subject, entry),
            None => tracing::error!(limit = %subject, "the limit in Redis cannot be read"),
        }
    }
    runtime
}

fn entry(value: &str) -> Option<Entry> {
    let (version, limits) = value.split_once(' ')?;
    Some(Entry {
        limits: serde_json::from_str(limits).ok()?,
        version: version.to_owned(),
    })
}

/// A number that no other write has.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
