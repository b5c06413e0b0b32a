//! HAProxy, with the deployed configuration, spreads HTTP and gRPC requests over all servers.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use hyper::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::tools::{path, program, read, run};
use crate::support::grpc::{self, check_request};
use crate::support::http::{check, get, json_body, try_get};
use crate::support::process::Process;
use crate::support::redis_servers::Port;
use crate::support::{Redis, Server, Wait};

#[test]
fn haproxy_configuration_is_valid() {
    let mut haproxy = program("haproxy");
    // `-dW` turns warnings into errors.
    run(haproxy
        .args(["-dW", "-c", "-f"])
        .arg(path("compose/haproxy.cfg")));
}

/// A running HAProxy. Dropping it kills the process.
struct Proxy {
    /// Before the directory, so that it is dropped first.
    _process: Process,
    http: Port,
    grpc: Port,
    _directory: TempDir,
}

impl Proxy {
    /// Starts HAProxy with the deployed configuration except for addresses and ports.
    fn start(servers: &[Server]) -> Self {
        let [http, grpc] = [(); 2].map(|()| Port::reserve());
        let mut text = String::new();
        for line in read("compose/haproxy.cfg").lines() {
            let bind =
                |port: &Port, options: &str| format!("bind 127.0.0.1:{}{options}\n", port.number());
            let server_lines = |address: fn(&Server) -> SocketAddr| {
                let servers = servers.iter().enumerate();
                let lines = servers.map(|(index, server)| {
                    let (to, health) = (address(server), server.http().port());
                    format!("server server-{index} {to} port {health}\n")
                });
                lines.collect::<String>()
            };
            let replaced = match line.trim_start().split_once(":80") {
                Some(("bind ", "80")) => bind(&http, ""),
                Some(("bind ", "81 proto h2")) => bind(&grpc, " proto h2"),
                Some((_, rest)) if rest.starts_with("80 ") => server_lines(Server::http),
                Some((_, rest)) if rest.starts_with("81 ") => server_lines(Server::grpc),
                _ => format!("{line}\n"),
            };
            text.push_str(&replaced);
        }
        assert_eq!(text.matches("server server-").count(), 2 * servers.len());
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
            _process: Process::spawn(&mut haproxy),
            http,
            grpc,
            _directory: directory,
        }
    }

    fn http(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.http.number()).into()
    }

    fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc.number())
    }
}

#[tokio::test]
async fn haproxy_spreads_both_protocols() {
    const LIMIT: usize = 7;
    const ROUND: usize = 30;
    let redis = Redis::start().await;
    let (url, limit) = (redis.url(), format!("fixed {LIMIT}/365d"));
    let servers = [(); 3].map(|()| {
        Server::start(&[
            ("STORE__URL", &*url),
            // Long enough that no check is degraded on a busy machine.
            ("STORE__DEADLINE", "15s"),
            ("DEFAULT__LIMIT", &*limit),
            // A stopping server runs until the test kills it.
            ("SHUTDOWN__DELAY", "1h"),
        ])
    });
    let proxy = Proxy::start(&servers);
    let wait = Wait::until("the proxy reaches a server");
    let ready = async || try_get(proxy.http(), "/ready").await;
    while ready()
        .await
        .is_none_or(|response| response.status() != StatusCode::OK)
    {
        wait.sleep().await;
    }
    let mut client = grpc::connect(proxy.grpc_url()).await;
    let mut allowed = 0;
    for _ in 0..ROUND {
        let decision = json_body(&check(proxy.http(), r#"{"key":"shared"}"#).await);
        allowed += usize::from(decision["allowed"] == json!(true));
        let response = client.check_limit(check_request("shared")).await.unwrap();
        allowed += usize::from(response.into_inner().status.unwrap().allowed);
    }
    assert_eq!(allowed, LIMIT);
    for server in &servers {
        for protocol in ["http", "grpc"] {
            assert!(server.requests(protocol).await > 0, "{protocol}");
        }
    }
    let metrics = get(proxy.http(), "/metrics").await;
    assert_eq!(metrics.status(), StatusCode::NOT_FOUND);

    // The proxy sends no more requests to a server that is stopping.
    servers[0].signal("TERM");
    let wait = Wait::until("the stopping server gets no more requests");
    let requests = async || {
        [
            servers[0].requests("http").await,
            servers[0].requests("grpc").await,
        ]
    };
    loop {
        let before = requests().await;
        for _ in 0..ROUND {
            check(proxy.http(), r#"{"key":"shared"}"#).await;
            client.check_limit(check_request("shared")).await.unwrap();
        }
        if requests().await == before {
            break;
        }
        wait.sleep().await;
    }
    // No request is lost when that server is gone.
    let [stopping, others @ ..] = servers;
    drop(stopping);
    for _ in 0..ROUND {
        let response = check(proxy.http(), r#"{"key":"shared"}"#).await;
        assert_eq!(response.status(), StatusCode::OK);
        client.check_limit(check_request("shared")).await.unwrap();
    }
    drop(others);
}
