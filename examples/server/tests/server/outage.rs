//! Redis is killed under load: every question is answered, degraded, and shared counts come back by
//! themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::StatusCode;
use serde_json::json;

use crate::support::client::{check, get, header, json};
use crate::support::protocol::tollgate::v1;
use crate::support::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;
use crate::support::{Replica, Server, Wait};

const ASK: &str = r#"{"key":"a","rate":1000000000,"interval":"1s"}"#;

#[derive(Default)]
struct Load {
    over: AtomicBool,
    shared: AtomicU64,
    degraded: AtomicU64,
}

impl Load {
    fn count(&self, degraded: bool) {
        let count = if degraded {
            &self.degraded
        } else {
            &self.shared
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    async fn until_more(&self, what: &str, count: impl Fn(&Self) -> &AtomicU64) {
        let before = count(self).load(Ordering::Relaxed);
        let wait = Wait::until(format!("more are {what}"));
        while count(self).load(Ordering::Relaxed) < before + 50 {
            wait.sleep().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_under_load() {
    let redis = Server::start().await;
    let server = Arc::new(Replica::start(&[("STORE__URL", &redis.url())]));
    let load = Arc::new(Load::default());
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (server, load) = (Arc::clone(&server), Arc::clone(&load));
        clients.push(tokio::spawn(async move {
            while !load.over.load(Ordering::Relaxed) {
                let answer = check(server.http(), ASK).await;
                assert_eq!(answer.status(), StatusCode::OK);
                let degraded = json(&answer)["degraded"] == json!(true);
                assert_eq!(header(&answer, "x-ratelimit-degraded").is_some(), degraded);
                assert_eq!(json(&answer)["allowed"], json!(true));
                load.count(degraded);
            }
        }));
    }
    for _ in 0..2 {
        let (server, load) = (Arc::clone(&server), Arc::clone(&load));
        clients.push(tokio::spawn(async move {
            let client = RateLimiterClient::connect(server.grpc_url()).await;
            let mut client = client.unwrap();
            while !load.over.load(Ordering::Relaxed) {
                let request = v1::CheckLimitRequest {
                    key: "b".into(),
                    ..Default::default()
                };
                let response = client.check_limit(request).await.unwrap();
                load.count(response.into_inner().status.unwrap().degraded);
            }
        }));
    }
    load.until_more("shared", |load| &load.shared).await;
    for _ in 0..2 {
        redis.kill();
        load.until_more("degraded", |load| &load.degraded).await;
        let ready = get(server.http(), "/ready").await;
        assert_eq!(ready.status(), StatusCode::OK, "it answers all the same");
        assert_eq!(json(&ready)["degraded"], json!(true));
        redis.restart().await;
        load.until_more("shared", |load| &load.shared).await;
    }
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client saw an error");
    }
}

#[tokio::test]
async fn it_starts_before_redis_does() {
    let redis = Server::start().await;
    redis.kill();
    let server = Replica::start(&[("STORE__URL", &redis.url())]);
    let answer = check(server.http(), ASK).await;
    assert_eq!(json(&answer)["degraded"], json!(true));
    redis.restart().await;
    let wait = Wait::until("the count is shared");
    while json(&check(server.http(), ASK).await)["degraded"] == json!(true) {
        wait.sleep().await;
    }
}

#[tokio::test]
async fn closed_means_denied() {
    let redis = Server::start().await;
    redis.kill();
    let values = [("STORE__URL", &*redis.url()), ("STORE__FAILURE", "closed")];
    let server = Replica::start(&values);
    let answer = check(server.http(), ASK).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let said = json(&answer);
    assert_eq!(
        (&said["allowed"], &said["degraded"]),
        (&json!(false), &json!(true))
    );
}
