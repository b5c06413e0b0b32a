//! The command `load` sends requests to servers, loses no response, and reports what it measures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::support::http::{get, json_body};
use crate::support::process::Process;
use crate::support::server::program;
use crate::support::{Redis, Server, Wait};

/// Long enough that no request times out on a busy machine.
const TIMEOUT: [&str; 2] = ["--timeout", "100s"];

/// Returns the command `load` for these servers.
fn load(servers: &[String], arguments: &[&str]) -> Command {
    let mut program = program();
    program.arg("load").args(TIMEOUT).args(arguments);
    program.args(["--server", &servers.join(",")]);
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    program
}

/// Runs `load` to its end.
async fn run(servers: &[String], arguments: &[&str]) -> Output {
    let mut load = load(servers, arguments);
    spawn_blocking(move || load.output().unwrap())
        .await
        .unwrap()
}

/// Returns the report of `load --json`, and the exit code.
fn report(output: &Output) -> (Value, i32) {
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (report, output.status.code().unwrap())
}

/// Runs `load --json`, and returns its report and exit code.
async fn measure(servers: &[String], arguments: &[&str]) -> (Value, i32) {
    report(&run(servers, &[arguments, &["--json"]].concat()).await)
}

/// Returns a number of the report.
fn number(report: &Value, name: &str) -> u64 {
    let number = report[name].as_u64();
    number.unwrap_or_else(|| panic!("{name} in {report}"))
}

fn http(server: &Server) -> String {
    format!("http://{}", server.http())
}

fn grpc(server: &Server) -> String {
    format!("grpc://{}", server.grpc())
}

/// Sends 110,000 requests, 64 in flight, to three servers that share one Redis. Asserts that each
/// request gets a response, and that each of the 100 keys is allowed exactly its limit of 1,000.
async fn assert_exact_through_three_servers(protocol: &str, address: fn(&Server) -> String) {
    let redis = Redis::start().await;
    let url = redis.url();
    let settings = [
        ("STORE__URL", &*url),
        ("STORE__DEADLINE", "15s"),
        ("DEFAULT__LIMIT", "1000/3650d"),
    ];
    let servers = [(); 3].map(|()| Server::start(&settings));
    let addresses = servers.each_ref().map(address);
    let arguments = ["--requests", "110000", "--in-flight", "64", "--keys", "100"];
    let (report, code) = measure(&addresses, &arguments).await;
    let counts = ["requests", "allowed", "denied", "degraded", "errors"];
    let counts = counts.map(|name| number(&report, name));
    assert_eq!(counts, [110_000, 100_000, 10_000, 0, 0], "{report}");
    assert_eq!((code, &report["failures"]), (0, &json!([])));
    for (server, expected) in servers.iter().zip([36_667, 36_667, 36_666]) {
        assert_eq!(server.requests(protocol).await, expected);
    }
    // The histogram has every response.
    let bars = report["histogram"].as_array().unwrap();
    let measured: u64 = bars.iter().map(|bar| number(bar, "count")).sum();
    assert_eq!(measured, 110_000);
    let latency = &report["latency_us"];
    let percentiles = ["p50", "p95", "p99", "max"].map(|name| number(latency, name));
    assert!(percentiles.is_sorted(), "{report}");
    assert_eq!(latency["since"], json!("sent"));
}

#[tokio::test]
async fn grpc_load_on_three_servers_is_exact() {
    assert_exact_through_three_servers("grpc", grpc).await;
}

#[tokio::test]
async fn http_load_on_three_servers_is_exact() {
    assert_exact_through_three_servers("http", http).await;
}

#[tokio::test]
async fn table_shows_counts_and_latencies() {
    let server = Server::start(&[]);
    let limit = ["--limit", "fixed 3/3650d", "--keys", "2"];
    let arguments = [&["--requests", "1100"], &limit[..]].concat();
    let output = run(&[http(&server), grpc(&server)], &arguments).await;
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{table}");
    let lines: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for expected in [
        ["allowed", "6"],
        ["denied", "1,094"],
        ["degraded", "0"],
        ["errors", "0"],
    ] {
        assert!(lines.iter().any(|line| *line == expected), "{table}");
    }
    for name in ["throughput", "p50", "p95", "p99", "max"] {
        let found = lines.iter().any(|line| line.first() == Some(&name));
        assert!(found, "{name}:\n{table}");
    }
    assert!(table.lines().all(|line| line.len() < 80), "{table}");
    // HTTP and gRPC requests with the same `--limit` share their counts, which are used up.
    let (report, _) = measure(&[http(&server)], &arguments).await;
    assert_eq!(
        (number(&report, "allowed"), number(&report, "denied")),
        (0, 1_100)
    );
}

#[tokio::test]
async fn errors_are_counted_by_kind() {
    let settings = [("TENANTS__ACME__TOKENS", "[\"token-of-tenant-acme\"]")];
    let server = Server::start(&settings);
    let closed_port = "127.0.0.1:1";
    let servers = [
        http(&server),
        grpc(&server),
        format!("http://{closed_port}"),
        format!("grpc://{closed_port}"),
    ];
    let (report, code) = measure(&servers, &["--requests", "400"]).await;
    assert_eq!(code, 2);
    assert_eq!(
        (number(&report, "requests"), number(&report, "errors")),
        (400, 400)
    );
    assert_eq!(report["latency_us"], json!(null));
    let failures = report["failures"].as_array().unwrap();
    let kinds = failures.iter().map(|failure| {
        let kind = failure["kind"].as_str().unwrap();
        (kind, number(failure, "count"))
    });
    let expected = [
        ("401 Unauthorized", 100),
        ("UNAUTHENTICATED", 100),
        ("cannot connect", 200),
    ];
    assert_eq!(kinds.collect::<Vec<_>>(), expected, "{report}");
    let first = failures[2]["first"].as_str().unwrap();
    assert!(first.contains(closed_port), "{first}");

    // With the token, only the requests to the closed port fail.
    let with_token = ["--requests", "400", "--token", "token-of-tenant-acme"];
    let output = run(&servers, &with_token).await;
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{table}");
    assert!(table.contains("cannot connect           200"), "{table}");
    assert!(
        table.contains(closed_port) && !table.contains("token-of"),
        "{table}"
    );
}

#[tokio::test]
async fn rate_option_is_kept() {
    let server = Server::start(&[]);
    let rate = ["--rate", "200", "--duration", "1s", "--in-flight", "4"];
    let (report, code) = measure(&[grpc(&server)], &rate).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!(number(&report, "requests"), 200);
    // The last request is due 5 ms before the end of the second, and is not sent earlier.
    assert!(report["seconds"].as_f64().unwrap() >= 0.995, "{report}");
    assert_eq!(report["latency_us"]["since"], json!("due"));
}

/// Starts an HTTP server that allows every check on one connection, and delays the first response.
fn server_with_slow_first_response(delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut requests = BufReader::new(stream.try_clone().unwrap());
        let mut delay = Some(delay);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if requests.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let header = line.trim_end().to_ascii_lowercase();
                if let Some(value) = header.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                if header.is_empty() {
                    break;
                }
            }
            requests.read_exact(&mut vec![0; length]).unwrap();
            thread::sleep(delay.take().unwrap_or_default());
            let body = r#"{"allowed":true,"degraded":false}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all([&head, body].concat().as_bytes()).unwrap();
        }
    });
    address
}

/// A slow response delays the requests that are due after it, and that delay is part of their
/// latency.
#[tokio::test]
async fn latency_includes_the_wait_before_sending() {
    let address = server_with_slow_first_response(Duration::from_millis(300));
    let server = format!("http://{address}");
    let rate = ["--rate", "100", "--requests", "20", "--in-flight", "1"];
    let (report, code) = measure(&[server], &rate).await;
    assert_eq!((code, number(&report, "allowed")), (0, 20), "{report}");
    // The eleventh request is due 100 ms after the first one, and is sent at least 300 ms after it.
    let median = number(&report["latency_us"], "p50");
    assert!(median >= 200_000, "{report}");
}

/// Interrupts the process, as Ctrl-C does, and waits for its output.
fn interrupt(mut process: Process) -> Output {
    process.signal("INT");
    let [mut stdout, mut stderr] = [Vec::new(), Vec::new()];
    let (out, err) = (process.0.stdout.take(), process.0.stderr.take());
    out.unwrap().read_to_end(&mut stdout).unwrap();
    err.unwrap().read_to_end(&mut stderr).unwrap();
    Output {
        status: process.0.wait().unwrap(),
        stdout,
        stderr,
    }
}

#[tokio::test]
async fn outage_and_interrupt_are_not_errors() {
    let redis = Redis::start().await;
    let settings = [
        ("STORE__URL", &*redis.url()),
        ("DEFAULT__LIMIT", "1000000/1s"),
    ];
    let server = Server::start(&settings);
    let servers = [http(&server), grpc(&server)];
    let forever = ["--duration", "1h", "--in-flight", "8", "--json"];
    let client = Process::spawn(&mut load(&servers, &forever));
    let wait_for_more_requests = async |when: &str| {
        let wait = Wait::until(format!("100 more requests arrive {when}"));
        let before = server.requests("grpc").await;
        while server.requests("grpc").await < before + 100 {
            wait.sleep().await;
        }
    };
    let wait_for_degraded = async |degraded: bool| {
        let wait = Wait::until(format!("the server is degraded: {degraded}"));
        while json_body(&get(server.http(), "/ready").await)["degraded"] != json!(degraded) {
            wait.sleep().await;
        }
    };
    wait_for_more_requests("before the outage").await;
    redis.kill();
    wait_for_degraded(true).await;
    wait_for_more_requests("during the outage").await;
    redis.restart().await;
    wait_for_degraded(false).await;
    wait_for_more_requests("after the outage").await;
    let output = spawn_blocking(|| interrupt(client)).await.unwrap();
    let (report, code) = report(&output);
    assert_eq!((code, number(&report, "errors")), (0, 0), "{report}");
    let [requests, allowed, denied, given_up] =
        ["requests", "allowed", "denied", "given_up"].map(|name| number(&report, name));
    assert_eq!(requests, allowed + denied + given_up, "{report}");
    assert!(given_up <= 8, "{report}");
    let degraded = number(&report, "degraded");
    assert!(degraded >= 100 && degraded < allowed, "{report}");
}
