//! A running server.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::{TIMEOUT, Wait};

/// The server's program, without the settings of the environment that the tests run in.
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

/// A server on ports that were free; killed when dropped.
pub(crate) struct Replica {
    process: Child,
    addresses: Vec<(String, SocketAddr)>,
    log: Arc<Mutex<String>>,
}

impl Replica {
    /// One without a configuration, but with these values of it in the environment:
    /// `("STORE__URL", "redis://…")`.
    pub(crate) fn start(values: &[(&str, &str)]) -> Self {
        Self::start_with(None, values)
    }

    /// One without a configuration that may have this many file descriptors.
    pub(crate) fn with_descriptors(count: u32, values: &[(&str, &str)]) -> Self {
        let mut program = Command::new("sh");
        let server = env!("CARGO_BIN_EXE_tollgate-server");
        program.args(["-c", r#"ulimit -n "$1" && exec "$2" serve"#, "sh"]);
        program.args([&count.to_string(), server]);
        Self::spawn(without_settings(program), values)
    }

    /// One with this configuration.
    pub(crate) fn configured(file: &Path, values: &[(&str, &str)]) -> Self {
        Self::start_with(Some(file), values)
    }

    fn start_with(file: Option<&Path>, values: &[(&str, &str)]) -> Self {
        let mut program = program();
        program.arg("serve");
        if let Some(file) = file {
            program.args([OsStr::new("--config"), file.as_os_str()]);
        }
        Self::spawn(program, values)
    }

    fn spawn(mut program: Command, values: &[(&str, &str)]) -> Self {
        for listener in ["HTTP", "GRPC", "ADMIN"] {
            program.env(format!("TOLLGATE__LISTEN__{listener}"), "127.0.0.1:0");
        }
        for (name, value) in values {
            program.env(format!("TOLLGATE__{name}"), value);
        }
        let piped = program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = piped.spawn().expect("the server's program runs");
        let log = Arc::default();
        read_log(&mut process, Arc::clone(&log));
        let addresses = read_addresses(&mut process)
            .unwrap_or_else(|| panic!("the server does not start:\n{}", log.lock().unwrap()));
        Self {
            process,
            addresses,
            log,
        }
    }

    pub(crate) fn listens_for(&self, front: &str) -> bool {
        self.addresses.iter().any(|(name, _)| name == front)
    }

    fn address(&self, front: &str) -> SocketAddr {
        let mut addresses = self.addresses.iter();
        let address = addresses.find(|(name, _)| name == front);
        address
            .unwrap_or_else(|| panic!("it listens for {front}"))
            .1
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.address("http")
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.address("grpc")
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    pub(crate) fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc())
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its resident memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
        number.parse().unwrap()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    pub(crate) async fn until_it_says(&self, part: &str) {
        let wait = Wait::until(format!("the server says {part:?}"));
        while !self.log().contains(part) {
            wait.sleep().await;
        }
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        // Until the child is waited for, its number is nobody else's.
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &id])
            .status()
            .expect("a shell starts");
        assert!(status.success(), "the server can be sent {name}");
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < TIMEOUT, "waited in vain for its end");
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_log(process: &mut Child, log: Arc<Mutex<String>>) {
    let stderr = BufReader::new(process.stderr.take().unwrap());
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// What it listens on, as its first line says: `Listening: http 127.0.0.1:80, grpc …`.
fn read_addresses(process: &mut Child) -> Option<Vec<(String, SocketAddr)>> {
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        // The test may be over.
        let _ = stdout.read_line(&mut line).map(|_| tell.send(line));
        // So that the server is never held up.
        let _ = stdout.read_to_end(&mut Vec::new());
    });
    let line = told.recv_timeout(TIMEOUT).ok()?;
    let fronts = line.trim().strip_prefix("Listening: ")?.split(", ");
    let fronts = fronts.map(|front| {
        let (name, address) = front.split_once(' ')?;
        Some((name.to_owned(), address.parse().ok()?))
    });
    fronts.collect()
}
