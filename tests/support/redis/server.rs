//! A server that can be paused, killed and started again.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult, Value};
use tempfile::TempDir;
use tokio::time::sleep;

use super::process::{Binary, Port, Process, read_log};
use super::{TIMEOUT, Wait, connect};

/// A running server. Dropping it kills the process and removes its directory.
pub(crate) struct Server {
    port: Port,
    arguments: Vec<String>,
    /// `None` while no process runs. Declared before the directory, so that the process is dropped first.
    process: Mutex<Option<Process>>,
    directory: TempDir,
}

/// A server did not start. Contains its log.
struct StartError(String);

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these command-line options, such as `["--maxmemory", "3mb"]`.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        Self::launch(None, options).await
    }

    /// Starts a sentinel with this configuration. Each sentinel has a file of its own, because sentinels
    /// rewrite their files.
    pub(crate) async fn start_sentinel(configuration: &str) -> Self {
        Self::launch(Some(configuration), &[]).await
    }

    async fn launch(sentinel: Option<&str>, options: &[&str]) -> Self {
        loop {
            let server = Self::prepare(sentinel, options);
            match server.spawn().await {
                Ok(()) => return server,
                // Another program has taken the port: try another one.
                Err(StartError(log)) if log.contains("ddress already in use") => {}
                Err(StartError(log)) => panic!("the server did not start:\n{log}"),
            }
        }
    }

    fn prepare(sentinel: Option<&str>, options: &[&str]) -> Self {
        let directory = TempDir::with_prefix("tollgate-redis-").expect("a directory");
        let path = directory.path().to_str().expect("the path is UTF-8");
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

    /// Starts the process and waits until it answers.
    async fn spawn(&self) -> Result<(), StartError> {
        let process = Process::spawn(&self.arguments, self.directory.path());
        // Another program may answer on the port, so compare the process id.
        let process_id = format!("process_id:{}", process.id());
        *self.process() = Some(process);
        let began = Instant::now();
        loop {
            if self.info_contains("server", &process_id).await {
                return Ok(());
            }
            let timed_out = began.elapsed() > TIMEOUT;
            if timed_out || !self.is_running() {
                let log = read_log(self.directory.path());
                self.process().take();
                return Err(StartError(log));
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

    /// Returns whether the server is running and not paused.
    pub(crate) fn is_answering(&self) -> bool {
        let mut process = self.process();
        let process = process.as_mut();
        process.is_some_and(|process| !process.is_paused() && process.is_running())
    }

    fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(Process::is_running)
    }

    /// Stops the process with SIGSTOP: the system still accepts connections, but nothing answers.
    pub(crate) fn pause(&self) {
        self.process()
            .as_mut()
            .expect("the server is running")
            .pause();
    }

    pub(crate) fn resume(&self) {
        self.process()
            .as_mut()
            .expect("the server is running")
            .resume();
    }

    /// Kills the server and waits until its process has ended.
    pub(crate) fn kill(&self) {
        self.process().take().expect("the server is running").kill();
    }

    /// Shuts the server down with SIGTERM and waits until its process has ended.
    pub(crate) fn terminate(&self) {
        self.process()
            .take()
            .expect("the server is running")
            .terminate();
    }

    /// Starts the server again, on the same port, with the same options and in the same directory.
    /// Kills it first if it is running.
    pub(crate) async fn restart(&self) {
        let process = self.process().take();
        if let Some(process) = process {
            process.kill();
        }
        if let Err(StartError(log)) = self.spawn().await {
            panic!("the server did not start again:\n{log}");
        }
    }

    /// Runs a command. If the server is paused, this fails after [`TIMEOUT`].
    pub(crate) async fn command(&self, words: &[impl AsRef<str>]) -> Value {
        self.query(words).await
    }

    /// Runs a command that may fail.
    pub(crate) async fn try_command(&self, words: &[impl AsRef<str>]) -> RedisResult<Value> {
        self.try_query(words).await
    }

    /// Runs a command and converts its reply.
    pub(crate) async fn query<T: FromRedisValue>(&self, words: &[impl AsRef<str>]) -> T {
        let reply = self.try_query(words).await;
        reply.unwrap_or_else(|error| {
            let words: Vec<_> = words.iter().take(5).map(AsRef::as_ref).collect();
            panic!("{words:?} at {}: {error}", self.address())
        })
    }

    /// Runs a command that may fail and converts its reply.
    ///
    /// Each command opens a new connection, since a restart breaks connections, and a connection works
    /// only in the runtime that opened it.
    pub(crate) async fn try_query<T: FromRedisValue>(
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

    /// Returns all keys, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let keys = self.scan().await;
        keys.into_iter().map(|(key, _)| key).collect()
    }

    /// Returns the keys without a time to live.
    pub(crate) async fn keys_without_ttl(&self) -> Vec<String> {
        let mut keys = self.scan().await;
        keys.retain(|&(_, ttl)| ttl == -1);
        keys.into_iter().map(|(key, _)| key).collect()
    }

    /// Returns all keys with their time to live in milliseconds, or -1 for none.
    async fn scan(&self) -> Vec<(String, i64)> {
        let mut connection = self.connect().await.expect("the server answers");
        let mut keys = BTreeSet::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(1_000);
            let batch: Vec<Vec<u8>>;
            (cursor, batch) = scan
                .query_async(&mut connection)
                .await
                .expect("the server answers");
            keys.extend(batch);
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
                .expect("the server answers"),
        };
        let keys = keys.iter().map(|key| String::from_utf8_lossy(key).into());
        // PTTL returns -2 for a key that has expired meanwhile.
        keys.zip(ttls).filter(|&(_, ttl)| ttl != -2).collect()
    }

    /// Returns how often a command was called since the start or [`Self::reset_stats`].
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let name = format!("cmdstat_{}:calls=", command.to_lowercase());
        self.statistic("commandstats", &name).await.unwrap_or(0)
    }

    /// Returns how often the server has replied with an error code since the start or
    /// [`Self::reset_stats`].
    pub(crate) async fn errors(&self, code: &str) -> u64 {
        let name = format!("errorstat_{code}:count=");
        self.statistic("errorstats", &name).await.unwrap_or(0)
    }

    /// Returns the number that follows `name`, such as `total_reads_processed:`, in a section of
    /// INFO.
    pub(crate) async fn statistic(&self, section: &str, name: &str) -> Option<u64> {
        let information: String = self.query(&["INFO", section]).await;
        let mut lines = information.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        let digits = value.split(',').next().unwrap_or(value);
        Some(digits.parse().expect("a statistic is a number"))
    }

    pub(crate) async fn reset_stats(&self) {
        self.command(&["CONFIG", "RESETSTAT"]).await;
    }

    /// Returns whether the server answers and has the role of a primary.
    pub(crate) async fn is_primary(&self) -> bool {
        self.info_contains("replication", "role:master").await
    }

    /// Assigns all slots to this server, the only node of its cluster, and waits until it serves
    /// them.
    pub(crate) async fn serve_all_slots(&self) {
        let words = ["CLUSTER", "ADDSLOTS"].map(str::to_owned);
        let slots = (0..16_384).map(|slot| slot.to_string());
        let words: Vec<_> = words.into_iter().chain(slots).collect();
        self.command(&words).await;
        let wait = Wait::until("the cluster serves all slots");
        let information = || self.query::<String>(&["CLUSTER", "INFO"]);
        while !information().await.contains("cluster_state:ok") {
            wait.sleep().await;
        }
    }

    /// Returns whether the server answers and a section of INFO contains this line.
    async fn info_contains(&self, section: &str, line: &str) -> bool {
        let information = self.try_query::<String>(&["INFO", section]).await;
        information.is_ok_and(|lines| lines.lines().any(|other| other == line))
    }

    /// Waits until a section of INFO contains this line.
    pub(super) async fn wait_for_info(&self, section: &str, line: &str) {
        let wait = Wait::until(format!("INFO of {} has the line {line}", self.address()));
        while !self.info_contains(section, line).await {
            wait.sleep().await;
        }
    }
}
