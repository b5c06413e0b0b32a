//! Well-behaved clients see no error while other clients are hostile, the configuration is reloaded
//! and Redis crashes. The server's memory and descriptors do not grow.
//!
//! The test takes 8 seconds, or as many as `TOLLGATE_SOAK_SECONDS` says.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::support::background_load::{Load, Running};
use crate::support::grpc::{self, check_request};
use crate::support::http::{HTTP2_PREFACE, check_head};
use crate::support::{Redis, Server, TIMEOUT, Wait, file};

/// The time between two connections of a hostile client.
const PERIOD: Duration = Duration::from_millis(5);

/// Checks 1,000 keys in turn over HTTP connections that are kept alive.
async fn check_by_http(address: SocketAddr, responses: Arc<AtomicU64>, running: Running) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    for number in 0.. {
        if !running.get() {
            return;
        }
        let body = format!(r#"{{"key":"k{}"}}"#, number % 1_000);
        let request = Request::post(format!("http://{address}/check"))
            .header("content-type", "application/json")
            .body(Full::from(body))
            .unwrap();
        let response = timeout(TIMEOUT, client.request(request)).await;
        let response = response.expect("in time, by HTTP").expect("a response");
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await;
        body.expect("a complete response");
        responses.fetch_add(1, Ordering::Relaxed);
    }
}

/// Checks 1,000 keys in turn over gRPC.
async fn check_by_grpc(url: String, responses: Arc<AtomicU64>, running: Running) {
    let mut client = grpc::connect(url).await;
    for number in 0.. {
        if !running.get() {
            return;
        }
        let request = check_request(format!("k{}", number % 1_000));
        let response = timeout(TIMEOUT, client.check_limit(request)).await;
        match response.expect("in time, by gRPC") {
            Ok(_) => responses.fetch_add(1, Ordering::Relaxed),
            Err(status) if is_unprocessed(&status) => continue,
            Err(status) => panic!("{status:?}"),
        };
    }
}

/// Returns whether the server did not process the call, because it had sent GOAWAY (RFC 9113, section
/// 6.8).
fn is_unprocessed(status: &Status) -> bool {
    status.code() == Code::Cancelled || format!("{status:?}").contains("GoAway(b\"\", NO_ERROR")
}

/// Opens connections that send these bytes and then stay silent.
async fn open_silent_connections(address: SocketAddr, bytes: Vec<u8>, running: Running) {
    let mut tasks = JoinSet::new();
    while running.get() {
        let bytes = bytes.clone();
        tasks.spawn(async move {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                // The server may close the connection at any time.
                let _ = stream.write_all(&bytes).await;
                let _ = timeout(TIMEOUT, stream.read(&mut [0; 1_024])).await;
            }
        });
        while tasks.try_join_next().is_some() {}
        sleep(PERIOD).await;
    }
}

/// Changes the configuration each second. Every third version is invalid.
async fn change_configuration(file: PathBuf, running: Running) {
    for number in 0.. {
        if !running.get() {
            return;
        }
        let limit = if number % 3 == 2 {
            "nonsense"
        } else {
            "1000000/1s"
        };
        fs::write(
            &file,
            format!("[default]\nlimit = \"{limit}\"\n# {number}\n"),
        )
        .unwrap();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Kills Redis and starts it again, once in each period.
async fn restart_redis(redis: Arc<Redis>, period: Duration, running: Running) {
    while running.get() {
        sleep(period).await;
        redis.kill();
        sleep(period / 10).await;
        redis.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_do_not_harm_others() {
    let seconds = std::env::var("TOLLGATE_SOAK_SECONDS").map_or(8, |text| text.parse().unwrap());
    let duration = Duration::from_secs(seconds);
    let redis = Arc::new(Redis::start().await);
    let settings = file("");
    let server = Server::with_config(
        settings.path(),
        &[
            ("STORE__URL", &redis.url()),
            ("LISTEN__REQUEST_DEADLINE", "5s"),
            ("LISTEN__MAX_CONNECTION_AGE", "3s"),
            ("LISTEN__MAX_CONNECTIONS", "200"),
            ("LISTEN__MAX_CONNECTIONS_PER_ADDRESS", "200"),
        ],
    );
    let descriptors_at_start = server.open_descriptors();
    let responses = Arc::new(AtomicU64::new(0));
    let mut load = Load::new();
    for _ in 0..4 {
        load.spawn(|running| check_by_http(server.http(), Arc::clone(&responses), running));
        load.spawn(|running| check_by_grpc(server.grpc_url(), Arc::clone(&responses), running));
    }
    // The bodies end before their `content-length`.
    let with_body = |content_length: usize, sent: usize| {
        let mut bytes = check_head(content_length, "");
        bytes.resize(bytes.len() + sent, b' ');
        bytes
    };
    let silent = [
        (server.http(), Vec::new()),
        (server.http(), with_body(60_000, 0)),
        (server.http(), with_body(60_000, 59_000)),
        (server.http(), with_body(1_000_000, 999_000)),
        (server.grpc(), HTTP2_PREFACE.to_vec()),
    ];
    for (address, bytes) in silent {
        load.spawn(|running| open_silent_connections(address, bytes, running));
    }
    let path = settings.path().to_owned();
    load.spawn(|running| change_configuration(path, running));
    let period = (duration / 4).min(Duration::from_secs(20));
    load.spawn(|running| restart_redis(Arc::clone(&redis), period, running));

    // In the first half the tables and connection pools fill.
    sleep(duration / 2).await;
    let (at_half, began) = (server.resident_kib(), Instant::now());
    let mut peak = 0;
    while began.elapsed() < duration / 2 {
        peak = peak.max(server.resident_kib());
        sleep(Duration::from_millis(100)).await;
    }
    // Panics if a well-behaved client saw an error.
    load.stop().await;
    let responses = responses.load(Ordering::Relaxed);
    println!("{responses} responses; memory {at_half} KiB, then at most {peak} KiB");
    assert!(responses > 100, "{responses} responses");
    // The number of connections varies, and the allocator keeps some freed memory.
    assert!(
        peak < at_half + at_half / 4,
        "memory grew from {at_half} KiB to {peak} KiB"
    );
    let wait = Wait::until("the server has closed the connections of all clients");
    // A few more descriptors than at the start are connections to Redis.
    while server.open_descriptors() > descriptors_at_start + 8 {
        wait.sleep().await;
    }
}
