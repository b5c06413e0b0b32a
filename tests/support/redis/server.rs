//! One server, which can be paused, killed and started again.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult, Value};
use tempfile::TempDir;
use tokio::time::sleep;

use super::process::{Binary, Port, Process, log};
use super::{PATIENCE, Wait, connect};

/// One server, and nothing is left of it when this is dropped.
pub(crate) struct Server {
    port: Port,
    arguments: Vec<String>,
    /// `None` while it is killed. Before the directory, so that it is dropped first.
    process: Mutex<Option<Process>>,
    directory: TempDir,
}

/// Why a server did not start: what it has said.
struct Ended(String);

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these options, such as `["--maxmemory", "3mb"]`.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        Self::launch(None, options).await
    }

    /// Starts a sentinel with this configuration, which it will write to.
    pub(crate) async fn start_sentinel(configuration: &str) -> Self {
        Self::launch(Some(configuration), &[]).await
    }

    async fn launch(sentinel: Option<&str>, options: &[&str]) -> Self {
        loop {
            let server = Self::prepare(sentinel, options);
            match server.spawn().await {
                Ok(()) => return server,
                // By a program that is none of these tests.
                Err(Ended(log)) if log.contains("ddress already in use") => {}
                Err(Ended(log)) => panic!("the server did not start:\n{log}"),
            }
        }
    }

    fn prepare(sentinel: Option<&str>, options: &[&str]) -> Self {
        let directory = TempDir::with_prefix("tollgate-server-").expect("a directory");
        let path = directory.path().to_str().expect("its path is UTF-8");
        let port = Port::reserve();
        let mut arguments = Vec::new();
        if let Some(configuration) = sentinel {
            let file = format!("{path}/sentinel.conf");
            fs::write(&file, configuration).expect("the directory can be written to");
            arguments.extend([file, "--sentinel".to_owned()]);
        }
        let number = port.number().to_string();
        let common = [
            ["--port", &number],
            ["--bind", "127.0.0.1"],
            ["--protected-mode", "no"],
            ["--dir", path],
            ["--daemonize", "no"],
            ["--save", ""],
            ["--appendonly", "no"],
        ];
        arguments.extend(common.concat().into_iter().map(str::to_owned));
        if Binary::get().must_enable_debug() {
            arguments.extend(["--enable-debug-command", "yes"].map(str::to_owned));
        }
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        Self {
            port,
            arguments,
            process: Mutex::new(None),
            directory,
        }
    }

    /// Starts the process, and waits until it answers.
    async fn spawn(&self) -> Result<(), Ended> {
        let process = Process::spawn(&self.arguments, self.directory.path());
        // Another program may answer on the port.
        let itself = format!("process_id:{}", process.id());
        *self.process() = Some(process);
        let began = Instant::now();
        loop {
            if self.says("server", &itself).await {
                return Ok(());
            }
            let slow = began.elapsed() > PATIENCE;
            if slow || !self.is_running() {
                let log = log(self.directory.path());
                self.process().take();
                return Err(Ended(log));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Whether it would answer: it was neither killed nor paused, and did not end by itself.
    pub(crate) fn is_answering(&self) -> bool {
        let mut process = self.process();
        let process = process.as_mut();
        process.is_some_and(|process| !process.is_paused() && process.is_running())
    }

    fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(Process::is_running)
    }

    /// Stops it where it stands: it still accepts connections, and answers nothing.
    pub(crate) fn pause(&self) {
        self.process().as_mut().expect("it runs").pause();
    }

    pub(crate) fn resume(&self) {
        self.process().as_mut().expect("it runs").resume();
    }

    /// Kills it, and returns when it is gone and its port is free.
    pub(crate) fn kill(&self) {
        self.process().take().expect("it runs").kill();
    }

    /// Has it end as it would when its machine shuts down, and returns when it is gone.
    pub(crate) fn terminate(&self) {
        self.process().take().expect("it runs").terminate();
    }

    /// Starts it again, on the same port, with the same options, in the same directory.
    pub(crate) async fn restart(&self) {
        let process = self.process().take();
        if let Some(process) = process {
            process.kill();
        }
        if let Err(Ended(log)) = self.spawn().await {
            panic!("the server did not start again:\n{log}");
        }
    }

    /// Runs a command. A server that is paused keeps this waiting for [`PATIENCE`].
    pub(crate) async fn command(&self, words: &[impl AsRef<str>]) -> Value {
        self.ask(words).await
    }

    pub(crate) async fn try_command(&self, words: &[impl AsRef<str>]) -> RedisResult<Value> {
        self.try_ask(words).await
    }

    /// Runs a command whose answer is of this type.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[impl AsRef<str>]) -> T {
        let answer = self.try_ask(words).await;
        answer.unwrap_or_else(|error| {
            let words: Vec<_> = words.iter().take(5).map(AsRef::as_ref).collect();
            panic!("{} says to {words:?}: {error}", self.address())
        })
    }

    /// Runs it on a connection of its own, which no restart has broken and no other runtime has made.
    pub(crate) async fn try_ask<T: FromRedisValue>(
        &self,
        words: &[impl AsRef<str>],
    ) -> RedisResult<T> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        command.query_async(&mut self.connect().await?).await
    }

    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        connect(&self.url()).await
    }

    /// All its keys, in order.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let keys = self.scan().await;
        keys.into_iter().map(|(key, _)| key).collect()
    }

    /// Those of its keys that would stay forever.
    pub(crate) async fn keys_without_ttl(&self) -> Vec<String> {
        let mut keys = self.scan().await;
        keys.retain(|&(_, ttl)| ttl == -1);
        keys.into_iter().map(|(key, _)| key).collect()
    }

    /// All keys, and how many milliseconds each has left, or -1.
    async fn scan(&self) -> Vec<(String, i64)> {
        let mut connection = self.connect().await.expect("it answers");
        let mut keys = BTreeSet::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(1_000);
            let some: Vec<Vec<u8>>;
            (cursor, some) = scan.query_async(&mut connection).await.expect("it answers");
            keys.extend(some);
            if cursor == 0u64 {
                break;
            }
        }
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.cmd("PTTL").arg(key);
        }
        let ttls: Vec<i64> = match keys.is_empty() {
            true => Vec::new(),
            false => pipeline
                .query_async(&mut connection)
                .await
                .expect("it answers"),
        };
        let keys = keys.iter().map(|key| String::from_utf8_lossy(key).into());
        // It is -2 for a key that is gone by now.
        keys.zip(ttls).filter(|&(_, ttl)| ttl != -2).collect()
    }

    /// How often this command was called since the start, or since [`Self::reset_stats`].
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let statistics: String = self.ask(&["INFO", "commandstats"]).await;
        let prefix = format!("cmdstat_{}:calls=", command.to_lowercase());
        let mut lines = statistics.lines();
        let line = lines.find_map(|line| line.strip_prefix(&prefix));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("calls are counted"))
    }

    pub(crate) async fn reset_stats(&self) {
        self.command(&["CONFIG", "RESETSTAT"]).await;
    }

    /// Whether it answers, and is no replica.
    pub(crate) async fn is_primary(&self) -> bool {
        self.says("replication", "role:master").await
    }

    /// Gives a cluster's only node all slots, and waits until it serves them.
    pub(crate) async fn serve_all_slots(&self) {
        let words = ["CLUSTER", "ADDSLOTS"].map(str::to_owned);
        let slots = (0..16_384).map(|slot| slot.to_string());
        let words: Vec<_> = words.into_iter().chain(slots).collect();
        self.command(&words).await;
        let wait = Wait::until("the cluster serves all slots");
        let information = || self.ask::<String>(&["CLUSTER", "INFO"]);
        while !information().await.contains("cluster_state:ok") {
            wait.on().await;
        }
    }

    /// Whether it answers, and a section of INFO has this line.
    async fn says(&self, section: &str, line: &str) -> bool {
        let information = self.try_ask::<String>(&["INFO", section]).await;
        information.is_ok_and(|lines| lines.lines().any(|said| said == line))
    }

    /// Waits until a section of INFO has this line.
    pub(super) async fn until_it_says(&self, section: &str, line: &str) {
        let wait = Wait::until(format!("{} says {line}", self.address()));
        while !self.says(section, line).await {
            wait.on().await;
        }
    }
}
