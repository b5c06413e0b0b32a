//! Two processes that share a Redis share the limit: of a hundred concurrent requests to both,
//! exactly the limit is allowed.

// Each round needs a new client address. Only Linux has all of 127.0.0.0/8.
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

/// Asserts in many rounds that two processes with this limit of ten allow ten of a hundred
/// requests.
async fn assert_ten_of_a_hundred_allowed(limit: &str) {
    let server = Server::start().await;
    let start = || {
        let mut program = program("axum");
        program.env("REDIS_URL", server.url()).env("LIMIT", limit);
        Service::start_with(&mut program)
    };
    let services = [start(), start()];
    let (mut rounds, mut degraded_rounds) = (0, 0);
    while rounds < ROUNDS {
        // A new address in each attempt.
        let client = Ipv4Addr::new(127, 1, degraded_rounds, rounds);
        let requests = (0..100).map(|index| services[index % 2].get_from(client, "/"));
        let responses = join_all(requests).await;
        let degraded =
            |answer: &http::Response<String>| answer.headers().contains_key(X_RATELIMIT_DEGRADED);
        if responses.iter().any(degraded) {
            // The busy machine missed a deadline: repeat the round.
            degraded_rounds += 1;
            assert!(degraded_rounds < 100, "too many rounds are degraded");
            continue;
        }
        let allowed = responses
            .iter()
            .filter(|answer| answer.status() == StatusCode::OK)
            .count();
        assert_eq!(allowed, 10, "{limit}, round {rounds}");
        rounds += 1;
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn processes_share_a_token_bucket() {
    assert_ten_of_a_hundred_allowed("10/3650d").await;
}

#[tokio::test]
async fn processes_share_a_sliding_window() {
    assert_ten_of_a_hundred_allowed("sliding 10/3650d").await;
}

#[tokio::test]
async fn processes_share_a_fixed_window() {
    assert_ten_of_a_hundred_allowed("fixed 10/3650d").await;
}
