//! A server's process, its binary and its port.

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

/// Starts the server below a shell that ends with it, and that ends it when the pipe to the test
/// is closed. The system closes it when the test's process is gone, whatever became of that.
///
/// The directory goes too, unless a line was written first: then the server is to start again.
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

/// A running server, or one that ended by itself.
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
            // What ends the tests' group, such as a key at a terminal, leaves the shell to clean up.
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

    pub(crate) fn pause(&mut self) {
        self.signal("STOP");
        self.paused = true;
    }

    pub(crate) fn resume(&mut self) {
        self.signal("CONT");
        self.paused = false;
    }

    /// Kills the server, and waits until nothing is left of it but its directory.
    pub(crate) fn kill(mut self) {
        if let Some(stdin) = &mut self.shell.stdin {
            // It fails if the server, and so the shell, ended by itself.
            let _ = stdin.write_all(b"again\n");
        }
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn terminate(mut self) {
        self.resume();
        self.signal("TERM");
        // To wait would close it, and so kill the server.
        let open = self.shell.stdin.take();
        self.shell.wait().expect("the shell ends");
        drop(open);
    }

    fn signal(&mut self, name: &str) {
        // Until the shell is waited for, its server's number is nobody else's.
        assert!(self.is_running(), "the server ended by itself");
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &self.id])
            .status()
            .expect("a shell starts");
        assert!(status.success(), "the server can be sent {name}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The server's program.
pub(crate) struct Binary {
    path: OsString,
    major: u32,
}

impl Binary {
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
                 TOLLGATE_TEST_SERVER to the path of one; ./tests/run sees to it",
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

    /// From 7 on DEBUG must be enabled. Before, it always is, and the option is an error.
    pub(crate) fn must_enable_debug(&self) -> bool {
        self.major >= 7
    }
}

/// A port for one server, kept from other tests' while the server is down.
///
/// It is below those that the system gives to outgoing connections, one of which would else be on
/// it when the server comes back. So is the port of the cluster's bus.
pub(crate) struct Port {
    number: u16,
    /// Says to the other tests that the port is taken: servers listen to TCP, so it is free for
    /// this, and the system takes it back by itself.
    _reservation: UdpSocket,
}

impl Port {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 10_000;
    /// From a server's port to its port on the cluster's bus, by default.
    const BUS: u16 = 10_000;

    pub(crate) fn reserve() -> Self {
        let mut random = RandomState::new().build_hasher();
        for attempt in 0..1_000 {
            random.write_u32(attempt);
            let number = Self::FIRST + (random.finish() % u64::from(Self::COUNT)) as u16;
            let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            let free = |number| TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
            if free(number) && free(number + Self::BUS) {
                return Self {
                    number,
                    _reservation: reservation,
                };
            }
        }
        panic!("there is no free port");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// What the server in this directory has said.
pub(crate) fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}
