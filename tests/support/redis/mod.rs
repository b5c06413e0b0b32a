//! Real servers for tests: one alone, a cluster, or a few below sentinels.
//!
//! Whatever binary is found is used: the one that `TOLLGATE_TEST_SERVER` names, or else
//! `redis-server` or `valkey-server`. Each server has a port and a directory of its own, and is
//! gone with the test, however the test ends.
//!
//! They live in real time: a test that uses one must not pause the clock.

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

/// How long anything is waited for. Much longer than it takes, as the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that waits for its answers as long.
pub(crate) async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
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

/// A wait for something that is asked for again and again, since nobody tells of it.
pub(crate) struct Wait {
    what: String,
    began: Instant,
}

impl Wait {
    pub(crate) fn until(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            began: Instant::now(),
        }
    }

    /// Waits a little before it is asked for again.
    pub(crate) async fn on(&self) {
        let what = &self.what;
        let patient = self.began.elapsed() < PATIENCE;
        assert!(patient, "waited {PATIENCE:?} in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
