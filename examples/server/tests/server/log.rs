//! The log on standard error: its format, its first lines, its errors, and closed output streams.

use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, pipe};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use hyper::StatusCode;
use tempfile::TempDir;

use crate::support::http::{check, get, json_body};
use crate::support::process::Process;
use crate::support::server::program;
use crate::support::{Server, Wait, json_lines};

/// Returns a command that serves on free ports, for tests of output that [`Server`] would read
/// itself.
fn serve() -> Command {
    let mut program = program();
    program.arg("serve");
    for listener in ["HTTP", "GRPC"] {
        program.env(format!("TOLLGATE__LISTEN__{listener}"), "127.0.0.1:0");
    }
    program
}

#[tokio::test]
async fn every_line_of_a_json_log_is_json() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    fs::write(&path, "[log]\nformat = \"json\"\nfilter = \"trace\"\n").unwrap();
    let url = ("STORE__URL", "redis://user:hunter2@127.0.0.1:1");
    let mut server = Server::with_config(&path, &[url]);
    check(server.http(), r#"{"key":"a"}"#).await;
    fs::write(&path, "[log\n").unwrap();
    server.wait_for_log("was refused").await;
    server.signal("TERM");
    assert!(server.wait_for_exit().success());
    let log = server.log();
    let lines = json_lines(&log);
    let first = &lines[0]["fields"];
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(first["store"], "redis at 127.0.0.1:1");
    assert_eq!(first["configuration"], *path.display().to_string());
    assert!(!log.contains("hunter2"), "{log}");
    let listening = format!("http {}, grpc {}", server.http(), server.grpc());
    let addresses = lines.iter().map(|line| &line["fields"]["addresses"]);
    let announced = addresses.filter(|addresses| **addresses == *listening);
    assert_eq!(announced.count(), 1);
}

#[test]
fn failed_start_is_logged_as_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for format in ["json", "text"] {
        let mut program = serve();
        program.env("TOLLGATE__LOG__FORMAT", format);
        program.env("TOLLGATE__LISTEN__GRPC", &taken);
        let output = program.output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{log}");
        let last = log.lines().last().unwrap();
        if format == "json" {
            let lines = json_lines(&log);
            let last = lines.last().unwrap();
            assert_eq!(last["level"], "ERROR", "{log}");
            let error = last["fields"]["error"].as_str().unwrap();
            assert!(error.contains("cannot listen on"), "{log}");
            let fix = "; stop the other program or change `listen.grpc`";
            assert!(error.ends_with(fix), "{log}");
        }
        assert!(last.contains(&taken), "{log}");
    }
}

#[test]
fn capacity_beyond_memory_fails_the_start() {
    for store in [None, Some("redis://127.0.0.1:1")] {
        let mut program = Command::new("sh");
        program.args(["-c", "ulimit -v 8000000; exec \"$0\" serve"]);
        program.arg(self::program().get_program());
        program.env("TOLLGATE__LOG__FORMAT", "json");
        let field = match store {
            Some(url) => {
                program.env("TOLLGATE__STORE__URL", url);
                "fallback_capacity"
            }
            None => "capacity",
        };
        let variable = format!("TOLLGATE__STORE__{}", field.to_uppercase());
        program.env(variable, "4294967295");
        let output = program.output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{log}");
        let lines = json_lines(&log);
        let error = lines.last().unwrap()["fields"]["error"].as_str().unwrap();
        let expected =
            format!("store.{field} = 4294967295 does not fit into memory: it needs 275 GB; choose");
        assert!(error.starts_with(&expected), "{log}");
    }
}

#[test]
fn configuration_error_is_plain_text() {
    let mut program = serve();
    program.env("TOLLGATE__LOG__FORMAT", "json");
    program.env("TOLLGATE__STORE__DEADLINE", "soon");
    let output = program.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    let expected = "tollgate-server: TOLLGATE__STORE__DEADLINE: store.deadline: ";
    assert!(error.starts_with(expected), "{error}");
}

/// Returns a pipe without a reader, so that each write to it fails.
fn closed_pipe() -> PipeWriter {
    let (_, writer) = pipe().unwrap();
    writer
}

/// Returns the address of the HTTP listener in a line such as `Listening: http 127.0.0.1:80, grpc
/// …`.
fn http_address(line: &str) -> SocketAddr {
    let mut words = line.split(['"', ' ', ',']);
    words.find_map(|word| word.parse().ok()).unwrap()
}

/// The server logs an event for each reload, which fails here.
#[tokio::test]
async fn closed_standard_error_does_not_stop_reloads() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    let write_limit = |limit: u32| {
        let settings = format!("[default]\nlimit = \"{limit}/1d\"\n");
        fs::write(&path, settings).unwrap();
    };
    write_limit(10);
    let mut program = serve();
    program.arg("--config").arg(&path);
    program.stdout(Stdio::piped()).stderr(closed_pipe());
    let mut server = Process::spawn(&mut program);
    let mut line = String::new();
    let mut stdout = BufReader::new(server.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address = http_address(&line);
    for expected in [20, 30] {
        write_limit(expected);
        let wait = Wait::until(format!("the limit is {expected}"));
        while json_body(&check(address, r#"{"key":"a"}"#).await)["limit"] != expected {
            wait.sleep().await;
        }
    }
}

#[tokio::test]
async fn closed_standard_output_does_not_stop_the_server() {
    let mut program = serve();
    program.stdout(closed_pipe()).stderr(Stdio::piped());
    let mut server = Process::spawn(&mut program);
    let stderr = BufReader::new(server.0.stderr.take().unwrap());
    let mut lines = stderr.lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("listening")).unwrap();
    let health = get(http_address(&line), "/health").await;
    assert_eq!(health.status(), StatusCode::OK);
    assert!(server.0.try_wait().unwrap().is_none());
}
