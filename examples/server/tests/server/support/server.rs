//! The program under test, as a process.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::process::Process;
use super::{TIMEOUT, Wait, http};

/// Returns a command for the server's program, without arguments, and without the `TOLLGATE_*`
/// variables of the tests' own environment.
pub(crate) fn program() -> Command {
    without_settings(Command::new(env!("CARGO_BIN_EXE_tollgate-server")))
}

fn without_settings(mut program: Command) -> Command {
    for (name, _) in std::env::vars() {
        if name.starts_with("TOLLGATE_") {
            program.env_remove(name);
        }
    }
    program.stdin(Stdio::null());
    program
}

/// A running server on free ports. Dropping it kills the process.
///
/// The constructors take settings by the names of their environment variables without the prefix
/// `TOLLGATE__`: `("STORE__URL", "redis://…")`.
pub(crate) struct Server {
    process: Process,
    addresses: Vec<(String, SocketAddr)>,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server without a configuration file.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(None, settings)
    }

    /// Starts a server with this configuration file.
    pub(crate) fn with_config(file: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_with(Some(file), settings)
    }

    /// Starts a server that may open at most this number of file descriptors.
    pub(crate) fn with_descriptor_limit(limit: u32, settings: &[(&str, &str)]) -> Self {
        let mut program = Command::new("sh");
        let server = env!("CARGO_BIN_EXE_tollgate-server");
        program.args(["-c", r#"ulimit -n "$1" && exec "$2" serve"#, "sh"]);
        program.args([&limit.to_string(), server]);
        Self::spawn(without_settings(program), settings)
    }

    fn start_with(file: Option<&Path>, settings: &[(&str, &str)]) -> Self {
        let mut program = program();
        program.arg("serve");
        if let Some(file) = file {
            program.args([OsStr::new("--config"), file.as_os_str()]);
        }
        Self::spawn(program, settings)
    }

    fn spawn(mut program: Command, settings: &[(&str, &str)]) -> Self {
        for listener in ["HTTP", "GRPC", "ADMIN"] {
            program.env(format!("TOLLGATE__LISTEN__{listener}"), "127.0.0.1:0");
        }
        for (name, value) in settings {
            program.env(format!("TOLLGATE__{name}"), value);
        }
        let mut process = Process::spawn(program.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let log = Arc::default();
        collect_log(&mut process, Arc::clone(&log));
        let addresses = read_addresses(&mut process)
            .unwrap_or_else(|| panic!("the server does not start:\n{}", log.lock().unwrap()));
        Self {
            process,
            addresses,
            log,
        }
    }

    /// Returns whether the server has this listener: `http`, `grpc` or `admin`.
    pub(crate) fn has_listener(&self, listener: &str) -> bool {
        self.addresses.iter().any(|(name, _)| name == listener)
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let mut addresses = self.addresses.iter();
        let address = addresses.find(|(name, _)| name == listener);
        let (_, address) = address.unwrap_or_else(|| panic!("no listener for {listener}"));
        *address
    }

    /// Returns the address of the HTTP listener.
    pub(crate) fn http(&self) -> SocketAddr {
        self.address("http")
    }

    /// Returns the address of the gRPC listener.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.address("grpc")
    }

    /// Returns the address of the admin listener, which exists only with an admin token.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    /// Returns the URL of the gRPC listener.
    pub(crate) fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc())
    }

    /// Returns the number of requests so far by this protocol: `http` or `grpc`, without Envoy's.
    pub(crate) async fn requests(&self, protocol: &str) -> u64 {
        let metrics = http::get(self.http(), "/metrics").await;
        let series = format!(r#"tollgate_server_requests_total{{protocol="{protocol}","#);
        let lines = metrics.body().lines();
        let counts = lines
            .filter(|line| line.starts_with(&series))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        counts.sum()
    }

    /// Returns the resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
        number.parse().unwrap()
    }

    /// Returns the number of open file descriptors.
    pub(crate) fn open_descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.process.0.id());
        fs::read_dir(directory).unwrap().count()
    }

    /// Returns the log so far, which is all output on standard error.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log contains the text.
    pub(crate) async fn wait_for_log(&self, text: &str) {
        self.wait_for_log_times(text, 1).await;
    }

    /// Waits until the log contains the text this number of times or more.
    pub(crate) async fn wait_for_log_times(&self, text: &str, times: usize) {
        let wait = Wait::until(format!("the log contains {text:?} {times} times"));
        while self.log().matches(text).count() < times {
            wait.sleep().await;
        }
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits until the process has exited.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < TIMEOUT, "the server does not exit");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Appends each line on standard error to `log`, on a thread of its own.
fn collect_log(process: &mut Process, log: Arc<Mutex<String>>) {
    let stderr = BufReader::new(process.0.stderr.take().unwrap());
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// Reads the names and addresses of the listeners from the first line on standard output:
/// `Listening: http 127.0.0.1:80, grpc …`.
fn read_addresses(process: &mut Process) -> Option<Vec<(String, SocketAddr)>> {
    let mut stdout = BufReader::new(process.0.stdout.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        // Sending fails if the test is already over.
        let _ = stdout.read_line(&mut line).map(|_| sender.send(line));
        // Reads on, because a full pipe would block the server.
        let _ = stdout.read_to_end(&mut Vec::new());
    });
    let line = receiver.recv_timeout(TIMEOUT).ok()?;
    let listeners = line.trim().strip_prefix("Listening: ")?.split(", ");
    let addresses = listeners.map(|listener| {
        let (name, address) = listener.split_once(' ')?;
        Some((name.to_owned(), address.parse().ok()?))
    });
    addresses.collect()
}
