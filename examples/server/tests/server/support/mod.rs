//! Servers, run as they are, and clients of them.

#![allow(dead_code, unused_imports, reason = "no test needs all of it")]
pub(crate) mod client;
pub(crate) mod envoy;
pub(crate) mod replica;
#[path = "../../../../../tests/support/redis/mod.rs"]
pub(crate) mod servers;

pub(crate) use client::{Answer, call};
pub(crate) use replica::Replica;
pub(crate) use servers::{Server, TIMEOUT, Wait};

/// The protocols, with their clients.
#[path = "../../../src/protocol.rs"]
pub(crate) mod protocol;

/// A file with this text, gone when dropped.
pub(crate) fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    file
}
