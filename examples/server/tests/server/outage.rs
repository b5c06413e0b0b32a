//! While Redis is down, the server answers every check as degraded. It shares counts again by
//! itself when Redis is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use serde_json::json;

use crate::support::background_load::Load;
use crate::support::grpc::{self, check_request};
use crate::support::http::{check, get, header, json_body};
use crate::support::{Redis, Server, Wait};

const CHECK: &str = r#"{"key":"a","rate":1000000000,"interval":"1s"}"#;

/// The number of responses that clients have received so far, by kind.
#[derive(Default)]
struct Responses {
    shared: AtomicU64,
    degraded: AtomicU64,
}

impl Responses {
    fn count(&self, degraded: bool) {
        let counter = match degraded {
            true => &self.degraded,
            false => &self.shared,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until clients have received 50 more responses of a kind.
async fn wait_for_more(kind: &str, counter: &AtomicU64) {
    let before = counter.load(Ordering::Relaxed);
    let wait = Wait::until(format!("50 more responses are {kind}"));
    while counter.load(Ordering::Relaxed) < before + 50 {
        wait.sleep().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_under_load_continue_while_redis_is_down() {
    let redis = Redis::start().await;
    let server = Arc::new(Server::start(&[("STORE__URL", &redis.url())]));
    let responses = Arc::new(Responses::default());
    let mut load = Load::new();
    for _ in 0..4 {
        let (server, responses) = (Arc::clone(&server), Arc::clone(&responses));
        load.spawn(async move |running| {
            while running.get() {
                let response = check(server.http(), CHECK).await;
                assert_eq!(response.status(), StatusCode::OK);
                let decision = json_body(&response);
                let degraded = decision["degraded"] == json!(true);
                let header = header(&response, "x-ratelimit-degraded");
                assert_eq!(header.is_some(), degraded);
                assert_eq!(decision["allowed"], json!(true));
                responses.count(degraded);
            }
        });
    }
    for _ in 0..2 {
        let (server, responses) = (Arc::clone(&server), Arc::clone(&responses));
        load.spawn(async move |running| {
            let mut client = grpc::connect(server.grpc_url()).await;
            while running.get() {
                let response = client.check_limit(check_request("b")).await.unwrap();
                responses.count(response.into_inner().status.unwrap().degraded);
            }
        });
    }
    wait_for_more("shared", &responses.shared).await;
    for _ in 0..2 {
        redis.kill();
        wait_for_more("degraded", &responses.degraded).await;
        let ready = get(server.http(), "/ready").await;
        assert_eq!(ready.status(), StatusCode::OK, "ready during the outage");
        assert_eq!(json_body(&ready)["degraded"], json!(true));
        redis.restart().await;
        wait_for_more("shared", &responses.shared).await;
    }
    // Panics if a client saw an error.
    load.stop().await;
}

#[tokio::test]
async fn server_starts_while_redis_is_down() {
    let redis = Redis::start().await;
    redis.kill();
    let server = Server::start(&[("STORE__URL", &redis.url())]);
    let response = check(server.http(), CHECK).await;
    assert_eq!(json_body(&response)["degraded"], json!(true));
    redis.restart().await;
    let wait = Wait::until("the count is shared");
    while json_body(&check(server.http(), CHECK).await)["degraded"] == json!(true) {
        wait.sleep().await;
    }
}

#[tokio::test]
async fn closed_strategy_denies_while_redis_is_down() {
    let redis = Redis::start().await;
    redis.kill();
    let settings = [("STORE__URL", &*redis.url()), ("STORE__FAILURE", "closed")];
    let server = Server::start(&settings);
    let response = check(server.http(), CHECK).await;
    assert_eq!(response.status(), StatusCode::OK);
    let decision = json_body(&response);
    assert_eq!(
        (&decision["allowed"], &decision["degraded"]),
        (&json!(false), &json!(true))
    );
}
