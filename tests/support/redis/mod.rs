//! Real Redis or Valkey servers for tests: a single server, a cluster, or servers with sentinels.
//!
//! Use it with
//!
//! ```ignore
//! #[path = "support/redis/mod.rs"]
//! mod servers;
//!
//! let server = servers::Server::start().await;
//! let store = RedisStore::new(&server.url()).unwrap();
//! ```
//!
//! The binary is the one that `TOLLGATE_TEST_SERVER` names, else `redis-server` or `valkey-server`.
//! Each server has a port and a directory of its own. Its process and its directory are removed
//! when the test ends, even if the test is killed.
//!
//! Servers run in real time, so a test that uses one must not pause the clock.

#![allow(dead_code, unused_imports, reason = "no test needs all of it")]

mod cluster;
mod process;
mod proxy;
pub(crate) mod rights;
mod sentinel;
mod server;
mod view;

pub(crate) use cluster::Cluster;
pub(crate) use process::Port;
pub(crate) use proxy::Proxy;
pub(crate) use sentinel::Sentinels;
pub(crate) use server::Server;

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::time::sleep;

/// How long a test waits for anything. Much longer than it takes, as the machine may be busy.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Opens a connection whose commands time out after [`TIMEOUT`].
pub(crate) async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    let client = Client::open(url)?;
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Notes that a test, or a part of one, was skipped. `./tests/run` prints all notes at the end.
pub(crate) fn skip(reason: &str) {
    println!("skipped: {reason}");
    if let Some(path) = std::env::var_os("TOLLGATE_TEST_SKIPPED") {
        let file = File::options().create(true).append(true).open(path);
        let line = reason.lines().next().unwrap_or_default();
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

/// Polls for a condition, with a timeout.
///
/// ```ignore
/// let wait = Wait::until("the server is a primary");
/// while !server.is_primary().await {
///     wait.sleep().await;
/// }
/// ```
pub(crate) struct Wait {
    condition: String,
    began: Instant,
}

impl Wait {
    /// Starts the timeout. The condition is named in the panic.
    pub(crate) fn until(condition: impl Into<String>) -> Self {
        Self {
            condition: condition.into(),
            began: Instant::now(),
        }
    }

    /// Sleeps for 20 ms. Panics if [`TIMEOUT`] has passed.
    pub(crate) async fn sleep(&self) {
        let condition = &self.condition;
        let in_time = self.began.elapsed() < TIMEOUT;
        assert!(in_time, "waited {TIMEOUT:?} in vain until {condition}");
        sleep(Duration::from_millis(20)).await;
    }
}
