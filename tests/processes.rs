//! Two processes on one Redis have one limit: of a hundred requests at once over both, exactly as
//! many pass as one of them alone would let through.

// Clients are told apart by address, and elsewhere a machine has only one of its own.
#![cfg(target_os = "linux")]

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/example.rs"]
mod support;

use std::net::Ipv4Addr;

use futures_util::future::join_all;
use http::StatusCode;
use servers::Server;
use support::{Service, program};
use tollgate::header::X_RATELIMIT_DEGRADED;

const ROUNDS: u8 = 100;

async fn exactly_ten_of_a_hundred(limit: &str) {
    let server = Server::start().await;
    let start = || {
        let mut program = program("axum");
        program.env("REDIS_URL", server.url()).env("LIMIT", limit);
        Service::start_with(&mut program)
    };
    let services = [start(), start()];
    let (mut rounds, mut spoilt) = (0, 0);
    while rounds < ROUNDS {
        // An address that has not been seen before.
        let client = Ipv4Addr::new(127, 1, spoilt, rounds);
        let requests = (0..100).map(|index| services[index % 2].get_from(client, "/"));
        let responses = join_all(requests).await;
        let degraded =
            |answer: &http::Response<String>| answer.headers().contains_key(X_RATELIMIT_DEGRADED);
        if responses.iter().any(degraded) {
            // The machine was too busy for the deadline.
            spoilt += 1;
            assert!(spoilt < 100, "hardly any round goes well");
            continue;
        }
        let passed = responses
            .iter()
            .filter(|answer| answer.status() == StatusCode::OK)
            .count();
        assert_eq!(passed, 10, "{limit}, round {rounds}");
        rounds += 1;
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn by_a_token_bucket() {
    exactly_ten_of_a_hundred("10/3650d").await;
}

#[tokio::test]
async fn by_a_sliding_window() {
    exactly_ten_of_a_hundred("sliding 10/3650d").await;
}

#[tokio::test]
async fn by_a_fixed_window() {
    exactly_ten_of_a_hundred("fixed 10/3650d").await;
}
