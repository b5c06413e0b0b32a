//! Runs the example programs, and sends requests to the ones that serve HTTP.

#![allow(dead_code, reason = "no test needs all of it")]

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// How long to wait for what normally happens at once.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the command of an example. `cargo test` builds it next to the tests; `cargo test --test
/// examples` alone does not.
pub(crate) fn program(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("a test is in a target");
    let path = profile.join("examples").join(format!("{name}{EXE_SUFFIX}"));
    assert!(
        is_fresh(&path),
        "{} is missing or stale: `cargo build --examples`",
        path.display()
    );
    let mut program = Command::new(path);
    // The environment of the tests must not configure the example.
    for variable in ["FAILURE_STRATEGY", "LIMIT", "REDIS_URL"] {
        program.env_remove(variable);
    }
    program
}

/// Returns whether the program exists and is newer than all its sources.
fn is_fresh(program: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    // A dependency file of cargo, in the syntax of make: `program: source source ...`.
    let rule = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let mut sources = rule.split_whitespace().skip(1);
    program.exists() && sources.all(|source| changed(source.as_ref()) <= changed(program))
}

/// A running example. Dropping it kills the process.
pub(crate) struct Example(pub(crate) Child);

impl Example {
    pub(crate) fn start(program: &mut Command) -> Self {
        let child = program.stdin(Stdio::null()).spawn();
        Self(child.expect("the example runs"))
    }

    /// Waits until the process ends.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the example to end", || {
            self.0.try_wait().expect("a child can be waited for")
        })
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Fails if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running example that serves HTTP on a free port, and a client of it.
pub(crate) struct Service {
    pub(crate) example: Example,
    address: SocketAddr,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Service {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(&mut program(name))
    }

    pub(crate) fn start_with(program: &mut Command) -> Self {
        let mut example = Example::start(program.env("PORT", "0").stdout(Stdio::piped()));
        let stdout = BufReader::new(example.0.stdout.take().expect("piped"));
        let (sender, receiver) = mpsc::channel();
        // Reads to the end, so that the example never blocks on a full pipe.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let address = line.strip_prefix("Listening on ");
                if let Some((address, _)) = address.and_then(|rest| rest.split_once(". ")) {
                    // Fails if the test is over.
                    let _ = sender.send(address.parse());
                }
            }
        });
        let address = receiver.recv_timeout(TIMEOUT);
        Self {
            example,
            address: address.expect("the example listens").expect("an address"),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Sends a GET request.
    pub(crate) async fn get(&self, path: &str, headers: Vec<(&str, String)>) -> Response<String> {
        self.get_with(&self.client, path, headers).await
    }

    /// Sends a POST request with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> Response<String> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = Request::post(format!("http://{}{path}", self.address));
        let body = Full::<Bytes>::from(body.to_string());
        let response = timeout(
            TIMEOUT,
            client.request(request.body(body).expect("a request")),
        );
        let response = response.await.expect("an answer in time");
        let (parts, body) = response.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Response::from_parts(parts, String::from_utf8(body.into()).expect("text"))
    }

    /// Sends a GET request from `client`, which must be an address of this machine.
    pub(crate) async fn get_from(&self, client: Ipv4Addr, path: &str) -> Response<String> {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(client.into()));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        self.get_with(&client, path, vec![]).await
    }

    async fn get_with(
        &self,
        client: &Client<HttpConnector, Empty<Bytes>>,
        path: &str,
        headers: Vec<(&str, String)>,
    ) -> Response<String> {
        let mut request = Request::get(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).expect("a request");
        let response = timeout(TIMEOUT, client.request(request)).await;
        let response = response.expect("an answer in time").expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Response::from_parts(parts, String::from_utf8(body.into()).expect("text"))
    }

    /// Sends 200 GET requests, 16 of them at a time. `headers` returns the headers of each request.
    pub(crate) async fn burst(
        &self,
        path: &str,
        headers: impl Fn(u32) -> Vec<(&'static str, String)>,
    ) -> Vec<Response<String>> {
        stream::iter(0..200)
            .map(|i| self.get(path, headers(i)))
            .buffer_unordered(16)
            .collect()
            .await
    }
}

/// Calls `poll` every 5 ms until it returns a value.
pub(crate) fn wait_for<T>(event: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    while began.elapsed() < TIMEOUT {
        if let Some(value) = poll() {
            return value;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("waited {TIMEOUT:?} in vain for {event}");
}
