//! Code that the tests share: servers as real processes, and clients of them.
//!
//! A typical test starts Redis and a server, and checks a key:
//!
//! ```ignore
//! let redis = Redis::start().await;
//! let server = Server::start(&[("STORE__URL", &redis.url())]);
//! let response = http::check(server.http(), r#"{"key":"a"}"#).await;
//! assert_eq!(json_body(&response)["allowed"], json!(true));
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `server` | [`Server`]: the program under test, on free ports |
//! | `http` | a client of the HTTP and admin listeners |
//! | `grpc` | clients of the gRPC listener, and the messages that they send |
//! | `admin` | a server with an admin token, and calls of the admin API |
//! | `envoy` | a running Envoy |
//! | `process` | a child process that is killed when dropped |
//! | `background_load` | tasks that repeat requests until the test stops them |
//! | `redis_servers` | real Redis servers |
//!
//! The last two belong to the library's tests. All processes end with the test, even if it panics.
//! [`Wait`] polls until something is true, and panics after [`TIMEOUT`].

#![allow(
    dead_code,
    unused_imports,
    reason = "some items are for the library's tests only"
)]

pub(crate) mod admin;
#[path = "../../../../../tests/support/load.rs"]
pub(crate) mod background_load;
pub(crate) mod envoy;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod process;
#[path = "../../../../../tests/support/redis/mod.rs"]
pub(crate) mod redis_servers;
pub(crate) mod server;

pub(crate) use http::Response;
pub(crate) use redis_servers::{Server as Redis, TIMEOUT, Wait};
pub(crate) use server::Server;

/// The server's own module of messages and clients, which are generated from the protocol files.
#[path = "../../../src/protocol.rs"]
pub(crate) mod protocol;

/// Returns a temporary file with this text. Dropping it deletes the file.
pub(crate) fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    file
}

/// Parses a text in which each line is a JSON value, such as a log in JSON.
pub(crate) fn json_lines(text: &str) -> Vec<serde_json::Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    text.lines().map(parse).collect()
}
