//! Example programs, run as they are.

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
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// For what takes no time at all unless it never happens.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example's program, which `cargo test` builds next to the tests; `cargo test --test examples`
/// alone does not.
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
    // What is set where the tests run is not meant for it.
    for variable in ["FAILURE_STRATEGY", "LIMIT", "REDIS_URL"] {
        program.env_remove(variable);
    }
    program
}

/// Whether the program is there, and nothing that it was made of has changed since.
fn is_fresh(program: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    // As a makefile has it: `program: source source ...`.
    let made_of = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let mut sources = made_of.split_whitespace().skip(1);
    program.exists() && sources.all(|source| changed(source.as_ref()) <= changed(program))
}

/// A running example; killed when dropped.
pub(crate) struct Example(pub(crate) Child);

impl Example {
    pub(crate) fn start(program: &mut Command) -> Self {
        let child = program.stdin(Stdio::null()).spawn();
        Self(child.expect("the example runs"))
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        wait_for("the example's end", || {
            self.0.try_wait().expect("a child can be waited for")
        })
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running example that serves HTTP, on a port that was free, and a client of it.
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
        let (tell, told) = mpsc::channel();
        // Reads on to the end, so that the example is never held up.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let address = line.strip_prefix("Listening on ");
                if let Some((address, _)) = address.and_then(|rest| rest.split_once(". ")) {
                    // The test may be over.
                    let _ = tell.send(address.parse());
                }
            }
        });
        let address = told.recv_timeout(PATIENCE);
        Self {
            example,
            address: address.expect("the example listens").expect("an address"),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(crate) async fn get(&self, path: &str, headers: Vec<(&str, String)>) -> Response<String> {
        self.get_by(&self.client, path, headers).await
    }

    /// A request from one of this machine's own addresses.
    pub(crate) async fn get_from(&self, client: Ipv4Addr, path: &str) -> Response<String> {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(client.into()));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        self.get_by(&client, path, vec![]).await
    }

    async fn get_by(
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
        let response = timeout(PATIENCE, client.request(request)).await;
        let response = response.expect("an answer in time").expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Response::from_parts(parts, String::from_utf8(body.into()).expect("text"))
    }

    /// Many requests, as fast as they are answered.
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

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(seen) = look() {
            return seen;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain for {what}");
}
