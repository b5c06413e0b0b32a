//! Servers, run as they are, and clients of them.

#![allow(dead_code, unused_imports, reason = "no test needs all of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod client;
pub(crate) mod replica;
#[path = "../../../../tests/support/redis/mod.rs"]
pub(crate) mod servers;

pub(crate) use client::{Answer, call};
pub(crate) use replica::Replica;
pub(crate) use servers::{PATIENCE, Server, Wait};

/// The protocols, with their clients.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations)]
pub(crate) mod protocol {
    pub(crate) mod tollgate {
        pub(crate) mod v1 {
            tonic::include_proto!("tollgate.v1");
        }
    }
}
