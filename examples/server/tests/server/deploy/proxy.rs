//! HAProxy, with the deployed configuration, spreads both protocols over all replicas.

use std::fs;
use std::process::{Child, Stdio};

use hyper::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::tools::{path, program, read, run};
use crate::support::client::{check, get, json, try_get};
use crate::support::protocol::tollgate::v1::CheckLimitRequest;
use crate::support::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;
use crate::support::servers::Port;
use crate::support::{Replica, Server, Wait};

#[test]
fn haproxy_configuration_is_valid() {
    let mut haproxy = program("haproxy");
    // Warnings are errors.
    run(haproxy
        .args(["-dW", "-c", "-f"])
        .arg(path("compose/haproxy.cfg")));
}

/// A running HAProxy; killed when dropped.
struct Proxy {
    process: Child,
    http: Port,
    grpc: Port,
    _directory: TempDir,
}

impl Proxy {
    /// Starts HAProxy with the deployed configuration, except for addresses and ports.
    fn start(replicas: &[Replica]) -> Self {
        let [http, grpc] = [(); 2].map(|()| Port::reserve());
        let mut text = String::new();
        for line in read("compose/haproxy.cfg").lines() {
            let at = |port: &Port, rest: &str| format!("bind 127.0.0.1:{}{rest}", port.number());
            let (protocol, replaced) = match line.trim_start().split_once(":80") {
                Some(("bind ", "80")) => ("", at(&http, "")),
                Some(("bind ", "81 proto h2")) => ("", at(&grpc, " proto h2")),
                Some((_, rest)) if rest.starts_with("80 ") => ("http", String::new()),
                Some((_, rest)) if rest.starts_with("81 ") => ("grpc", String::new()),
                _ => ("", line.to_owned()),
            };
            let servers = replicas.iter().enumerate().map(|(index, replica)| {
                let to = if protocol == "http" {
                    replica.http()
                } else {
                    replica.grpc()
                };
                format!(
                    "server replica-{index} {to} port {}\n",
                    replica.http().port()
                )
            });
            match protocol {
                "" => text.extend([&*replaced, "\n"]),
                _ => text.extend(servers),
            }
        }
        assert_eq!(text.matches("server replica-").count(), 2 * replicas.len());
        let directory = TempDir::with_prefix("tollgate-proxy-").unwrap();
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, text).unwrap();
        let mut haproxy = program("haproxy");
        haproxy.arg("-db").arg("-f").arg(&file);
        haproxy
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            process: haproxy.spawn().expect("HAProxy runs"),
            http,
            grpc,
            _directory: directory,
        }
    }

    fn http(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.http.number()).into()
    }

    fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc.number())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The number of requests that a replica has received by this protocol.
async fn received(replica: &Replica, door: &str) -> u64 {
    let metrics = get(replica.http(), "/metrics").await;
    let name = format!(r#"tollgate_server_requests_total{{door="{door}","#);
    let lines = metrics
        .body()
        .lines()
        .filter(|line| line.starts_with(&name));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn proxy_spreads_both_protocols() {
    const LIMIT: usize = 7;
    const ROUND: usize = 30;
    let redis = Server::start().await;
    let (url, limit) = (redis.url(), format!("fixed {LIMIT}/365d"));
    let replicas = [(); 3].map(|()| {
        Replica::start(&[
            ("STORE__URL", &*url),
            // Enough for a busy machine, so that no check is degraded.
            ("STORE__DEADLINE", "15s"),
            ("DEFAULT__LIMIT", &*limit),
            // Until the test kills the replica.
            ("SHUTDOWN__DELAY", "1h"),
        ])
    });
    let proxy = Proxy::start(&replicas);
    let wait = Wait::until("the proxy has a replica");
    let ready = async || try_get(proxy.http(), "/ready").await;
    while ready()
        .await
        .is_none_or(|answer| answer.status() != StatusCode::OK)
    {
        wait.sleep().await;
    }
    let mut client = RateLimiterClient::connect(proxy.grpc()).await.unwrap();
    let mut allowed = 0;
    let request = CheckLimitRequest {
        key: "somebody".into(),
        ..Default::default()
    };
    for _ in 0..ROUND {
        let said = json(&check(proxy.http(), r#"{"key":"somebody"}"#).await);
        allowed += usize::from(said["allowed"] == json!(true));
        let said = client
            .check_limit(request.clone())
            .await
            .unwrap()
            .into_inner();
        allowed += usize::from(said.status.unwrap().allowed);
    }
    assert_eq!(allowed, LIMIT);
    for replica in &replicas {
        for door in ["http", "grpc"] {
            assert!(received(replica, door).await > 0, "{door}");
        }
    }
    assert_eq!(
        get(proxy.http(), "/metrics").await.status(),
        StatusCode::NOT_FOUND
    );

    // A replica that stops gets no more requests, and no request is lost when it is gone.
    replicas[0].signal("TERM");
    let wait = Wait::until("the stopping replica gets no more requests");
    loop {
        let before = [
            received(&replicas[0], "http").await,
            received(&replicas[0], "grpc").await,
        ];
        for _ in 0..ROUND {
            check(proxy.http(), r#"{"key":"somebody"}"#).await;
            client.check_limit(request.clone()).await.unwrap();
        }
        if before
            == [
                received(&replicas[0], "http").await,
                received(&replicas[0], "grpc").await,
            ]
        {
            break;
        }
        wait.sleep().await;
    }
    let [stopped, others @ ..] = replicas;
    drop(stopped);
    for _ in 0..ROUND {
        let answer = check(proxy.http(), r#"{"key":"somebody"}"#).await;
        assert_eq!(answer.status(), StatusCode::OK);
        client.check_limit(request.clone()).await.unwrap();
    }
    drop(others);
}
