//! The process of a server, its binary and its port.

use std::collections::hash_map::RandomState;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The script of a shell that runs the server as its child and ends with it. The shell kills the
/// server when the pipe from the test is closed, which the system does even if the test is killed.
///
/// It removes the server's directory then, unless a line was written to the pipe first: the test
/// will start the server again in it.
const WATCHDOG: &str = r#"
trap "" HUP
directory=$1
shift
exec 3<&0
"$@" >>"$directory/log" 2>&1 3<&- &
server=$!
echo "$server"
{ read -r line || rm -rf "$directory"; kill -9 "$server"; } <&3 &
watchdog=$!
wait "$server"
kill -9 "$watchdog"
wait
"#;

/// The process of a server, which may have ended by itself. Dropping it kills the server.
pub(crate) struct Process {
    shell: Child,
    id: String,
    paused: bool,
}

impl Process {
    pub(crate) fn spawn(arguments: &[String], directory: &Path) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(directory)
            .arg(&Binary::get().path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C at a terminal kills the process group of the tests. The shell must survive
            // that to clean up.
            .process_group(0)
            .spawn()
            .expect("a shell starts");
        let mut id = String::new();
        let output = shell.stdout.take().expect("the output is piped");
        BufReader::new(output).read_line(&mut id).unwrap();
        Self {
            shell,
            id: id.trim().to_owned(),
            paused: false,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.shell.try_wait().unwrap().is_none()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Stops the server with SIGSTOP.
    pub(crate) fn pause(&mut self) {
        self.signal("STOP");
        self.paused = true;
    }

    pub(crate) fn resume(&mut self) {
        self.signal("CONT");
        self.paused = false;
    }

    /// Kills the server and waits until it has ended. Its directory stays.
    pub(crate) fn kill(mut self) {
        if let Some(stdin) = &mut self.shell.stdin {
            // Fails if the server, and with it the shell, has ended by itself.
            let _ = stdin.write_all(b"again\n");
        }
    }

    /// Ends the server with SIGTERM and waits until it has ended.
    pub(crate) fn terminate(mut self) {
        self.resume();
        self.signal("TERM");
        // `wait` would close the pipe, and the shell would kill the server.
        let stdin = self.shell.stdin.take();
        self.shell.wait().expect("the shell ends");
        drop(stdin);
    }

    fn signal(&mut self, name: &str) {
        // The process id is not reused before the shell, its parent, has been waited for.
        assert!(self.is_running(), "the server ended by itself");
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &self.id])
            .status()
            .expect("a shell starts");
        assert!(status.success(), "the server cannot be sent {name}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The program of the server.
pub(crate) struct Binary {
    path: OsString,
    major: u32,
}

impl Binary {
    /// Returns the binary that `TOLLGATE_TEST_SERVER` names, else `redis-server` or
    /// `valkey-server`.
    pub(crate) fn get() -> &'static Self {
        static BINARY: OnceLock<Binary> = OnceLock::new();
        BINARY.get_or_init(|| {
            if let Some(path) = env::var_os("TOLLGATE_TEST_SERVER") {
                let found = Self::at(&path);
                return found
                    .unwrap_or_else(|| panic!("TOLLGATE_TEST_SERVER: no server at {path:?}"));
            }
            let mut found = ["redis-server", "valkey-server"].iter().map(OsString::from);
            found.find_map(|name| Self::at(&name)).expect(
                "these tests need a server: install redis-server or valkey-server, or set \
                 TOLLGATE_TEST_SERVER to the path of one, or run ./tests/run, which installs one",
            )
        })
    }

    fn at(path: &OsString) -> Option<Self> {
        let output = Command::new(path).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, number) = version.split_once(" v=")?;
        let (major, _) = number.split_once('.')?;
        Some(Self {
            path: path.clone(),
            major: major.parse().ok()?,
        })
    }

    /// Returns whether DEBUG must be enabled by an option. Before version 7 it always is enabled,
    /// and the option is an error.
    pub(crate) fn must_enable_debug(&self) -> bool {
        self.major >= 7
    }
}

/// A port for one server. No other test takes it, even while the server is down.
///
/// The port and that of the cluster bus are below the range of ephemeral ports, so that no outgoing
/// connection occupies them when the server starts again.
pub(crate) struct Port {
    number: u16,
    /// Marks the port as taken for other tests. Servers use TCP only, so a UDP socket does not
    /// conflict, and the system closes it when the test ends.
    _reservation: UdpSocket,
}

impl Port {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 10_000;
    /// The offset of the port of the cluster bus from the server's port.
    const BUS_OFFSET: u16 = 10_000;

    /// Returns a random free port.
    pub(crate) fn reserve() -> Self {
        let mut random = RandomState::new().build_hasher();
        for attempt in 0..1_000 {
            random.write_u32(attempt);
            let number = Self::FIRST + (random.finish() % u64::from(Self::COUNT)) as u16;
            let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            let free = |number| TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
            if free(number) && free(number + Self::BUS_OFFSET) {
                return Self {
                    number,
                    _reservation: reservation,
                };
            }
        }
        panic!("no free port in 1,000 attempts");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// Returns what the server in this directory has logged.
pub(crate) fn read_log(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}
