//! `load` drives servers, loses nothing, and says what it has measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::support::client::{get, json};
use crate::support::replica::program;
use crate::support::{Replica, Server, Wait};

/// Longer than this machine may be busy with something else.
const TIMEOUT: [&str; 2] = ["--timeout", "100s"];

fn load(servers: &[String], arguments: &[&str]) -> Command {
    let mut program = program();
    program.arg("load").args(TIMEOUT).args(arguments);
    program.args(["--server", &servers.join(",")]);
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    program
}

async fn run(servers: &[String], arguments: &[&str]) -> Output {
    let mut load = load(servers, arguments);
    spawn_blocking(move || load.output().unwrap())
        .await
        .unwrap()
}

/// What it says with `--json`, and its exit code.
fn report(output: &Output) -> (Value, i32) {
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (report, output.status.code().unwrap())
}

async fn measure(servers: &[String], arguments: &[&str]) -> (Value, i32) {
    report(&run(servers, &[arguments, &["--json"]].concat()).await)
}

fn number(report: &Value, name: &str) -> u64 {
    let number = report[name].as_u64();
    number.unwrap_or_else(|| panic!("{name} in {report}"))
}

fn http(server: &Replica) -> String {
    format!("http://{}", server.http())
}

fn grpc(server: &Replica) -> String {
    format!("grpc://{}", server.grpc())
}

/// How many requests a server has decided.
async fn decided(server: &Replica, door: &str) -> u64 {
    let metrics = get(server.http(), "/metrics").await;
    let of_door = format!("tollgate_server_requests_total{{door=\"{door}\"");
    let lines = metrics.body().lines();
    let counts = lines.filter(|line| line.starts_with(&of_door));
    counts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// 110,000 requests at 64 in flight through three servers on one Redis: each is answered, and each of
/// a hundred keys is allowed its thousand.
async fn three_servers(door: &str, address: fn(&Replica) -> String) {
    let redis = Server::start().await;
    let url = redis.url();
    let values = [
        ("STORE__URL", &*url),
        ("STORE__DEADLINE", "15s"),
        ("DEFAULT__LIMIT", "1000/3650d"),
    ];
    let servers = [(); 3].map(|()| Replica::start(&values));
    let addresses = servers.each_ref().map(address);
    let arguments = ["--requests", "110000", "--in-flight", "64", "--keys", "100"];
    let (report, code) = measure(&addresses, &arguments).await;
    let counts = ["requests", "allowed", "denied", "degraded", "errors"];
    let counts = counts.map(|name| number(&report, name));
    assert_eq!(counts, [110_000, 100_000, 10_000, 0, 0], "{report}");
    assert_eq!((code, &report["failures"]), (0, &json!([])));
    for (server, expected) in servers.iter().zip([36_667, 36_667, 36_666]) {
        assert_eq!(decided(server, door).await, expected);
    }
    // Each answer is in the histogram, which the percentiles agree with.
    let bars = report["histogram"].as_array().unwrap();
    let measured: u64 = bars.iter().map(|bar| number(bar, "count")).sum();
    assert_eq!(measured, 110_000);
    let latency = &report["latency_us"];
    let percentiles = ["p50", "p95", "p99", "max"].map(|name| number(latency, name));
    assert!(percentiles.is_sorted(), "{report}");
    assert_eq!(latency["since"], json!("sent"));
}

#[tokio::test]
async fn three_servers_by_grpc() {
    three_servers("grpc", grpc).await;
}

#[tokio::test]
async fn three_servers_by_http() {
    three_servers("http", http).await;
}

#[tokio::test]
async fn the_table() {
    let server = Replica::start(&[]);
    let limit = ["--limit", "fixed 3/3650d", "--keys", "2"];
    let asked = [&["--requests", "1100"], &limit[..]].concat();
    let output = run(&[http(&server), grpc(&server)], &asked).await;
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
    // A limit that is given is the same one by either door.
    let (report, _) = measure(&[http(&server)], &asked).await;
    assert_eq!(
        (number(&report, "allowed"), number(&report, "denied")),
        (0, 1_100)
    );
}

#[tokio::test]
async fn errors_are_counted_by_kind() {
    let values = [("TENANTS__ACME__TOKENS", "[\"token-of-tenant-acme\"]")];
    let server = Replica::start(&values);
    let nobody = "127.0.0.1:1";
    let servers = [
        http(&server),
        grpc(&server),
        format!("http://{nobody}"),
        format!("grpc://{nobody}"),
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
    assert!(first.contains(nobody), "{first}");

    // With the token, only those fail that are nobody.
    let token = ["--requests", "400", "--token", "token-of-tenant-acme"];
    let output = run(&servers, &token).await;
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{table}");
    assert!(table.contains("cannot connect           200"), "{table}");
    assert!(
        table.contains(nobody) && !table.contains("token-of"),
        "{table}"
    );
}

#[tokio::test]
async fn a_rate_is_kept() {
    let server = Replica::start(&[]);
    let rate = ["--rate", "200", "--duration", "1s", "--in-flight", "4"];
    let (report, code) = measure(&[grpc(&server)], &rate).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!(number(&report, "requests"), 200);
    // The last one is due 5 ms before the second is over, and never sent earlier.
    assert!(report["seconds"].as_f64().unwrap() >= 0.995, "{report}");
    assert_eq!(report["latency_us"]["since"], json!("due"));
}

/// Answers HTTP on one connection, the first request late.
fn slow_at_first(delay: Duration) -> SocketAddr {
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

/// Whoever is asked late, since an earlier answer is late, has waited for as long.
#[tokio::test]
async fn what_waits_for_its_turn_is_measured() {
    let server = format!("http://{}", slow_at_first(Duration::from_millis(300)));
    let rate = ["--rate", "100", "--requests", "20", "--in-flight", "1"];
    let (report, code) = measure(&[server], &rate).await;
    assert_eq!((code, number(&report, "allowed")), (0, 20), "{report}");
    // The eleventh was due 100 ms after the first, and sent 300 ms after it at the earliest.
    let median = number(&report["latency_us"], "p50");
    assert!(median >= 200_000, "{report}");
}

/// A load that goes on; killed when dropped.
struct Running(Child);

impl Running {
    /// Tells it to stop, as Ctrl-C does, and waits for what it has to say.
    fn interrupt(mut self) -> Output {
        // It is not waited for yet, so its number is nobody else's.
        let id = self.0.id().to_string();
        let kill = ["-c", r#"kill -s INT "$1""#, "sh", &id];
        assert!(Command::new("sh").args(kill).status().unwrap().success());
        let [mut stdout, mut stderr] = [Vec::new(), Vec::new()];
        let (out, err) = (self.0.stdout.take(), self.0.stderr.take());
        out.unwrap().read_to_end(&mut stdout).unwrap();
        err.unwrap().read_to_end(&mut stderr).unwrap();
        Output {
            status: self.0.wait().unwrap(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Redis is killed and comes back, and then the load is interrupted: nothing of it is an error.
#[tokio::test]
async fn an_outage_and_an_early_end() {
    let redis = Server::start().await;
    let values = [
        ("STORE__URL", &*redis.url()),
        ("DEFAULT__LIMIT", "1000000/1s"),
    ];
    let server = Replica::start(&values);
    let servers = [http(&server), grpc(&server)];
    let forever = ["--duration", "1h", "--in-flight", "8", "--json"];
    let client = Running(load(&servers, &forever).spawn().unwrap());
    let until_more = async |what: &str| {
        let wait = Wait::until(format!("more requests come, {what}"));
        let before = decided(&server, "grpc").await;
        while decided(&server, "grpc").await < before + 100 {
            wait.sleep().await;
        }
    };
    let until_degraded = async |degraded| {
        let wait = Wait::until(format!("it is {degraded} that Redis is away"));
        while json(&get(server.http(), "/ready").await)["degraded"] != json!(degraded) {
            wait.sleep().await;
        }
    };
    until_more("at first").await;
    redis.kill();
    until_degraded(true).await;
    until_more("without Redis").await;
    redis.restart().await;
    until_degraded(false).await;
    until_more("after that").await;
    let output = spawn_blocking(|| client.interrupt()).await.unwrap();
    let (report, code) = report(&output);
    assert_eq!((code, number(&report, "errors")), (0, 0), "{report}");
    let [requests, allowed, denied, given_up] =
        ["requests", "allowed", "denied", "given_up"].map(|name| number(&report, name));
    assert_eq!(requests, allowed + denied + given_up, "{report}");
    assert!(given_up <= 8, "{report}");
    let degraded = number(&report, "degraded");
    assert!(degraded >= 100 && degraded < allowed, "{report}");
}
