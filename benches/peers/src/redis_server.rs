//! A Redis server for the comparison.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use redis::{Client, ConnectionLike, cmd};
use tempfile::TempDir;

/// The timeout of the start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running Redis server on a free port. Dropping it kills the process.
pub(crate) struct RedisServer {
    process: Child,
    url: String,
    _directory: TempDir,
}

impl RedisServer {
    /// Starts a server without persistence, and waits until it answers.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("peers-")?;
        // The port is free now. Another program is unlikely to take it before the server does.
        let address: SocketAddr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server: it must be in PATH")?;
        let mut server = Self {
            process,
            url: format!("redis://{address}"),
            _directory: directory,
        };
        let began = Instant::now();
        while !server.answers() {
            if began.elapsed() > START_TIMEOUT || server.process.try_wait()?.is_some() {
                bail!("redis-server does not answer");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Deletes a key.
    pub(crate) fn delete(&self, key: &str) -> anyhow::Result<()> {
        let mut connection = Client::open(self.url())?.get_connection()?;
        Ok(cmd("DEL").arg(key).exec(&mut connection)?)
    }

    fn answers(&self) -> bool {
        Client::open(self.url()).is_ok_and(|mut client| client.check_connection())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
