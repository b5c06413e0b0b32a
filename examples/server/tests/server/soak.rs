//! Well-behaved clients see no error beside hostile ones, reloads and an unsteady Redis, and the
//! server's memory and descriptors do not grow.
//!
//! Takes some seconds; `TOLLGATE_SOAK_SECONDS` sets how many.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::resources::PREFACE;
use crate::support::protocol::tollgate::v1;
use crate::support::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;
use crate::support::{Replica, Server, TIMEOUT, Wait, file};

/// How often hostile clients begin anew, in each of four ways.
const PERIOD: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Load {
    over: AtomicBool,
    answered: AtomicU64,
}

impl Load {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Checks keys in turn over connections that are kept alive.
async fn by_http(address: SocketAddr, load: Arc<Load>) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    for number in 0.. {
        if load.is_over() {
            return;
        }
        let body = format!(r#"{{"key":"k{}"}}"#, number % 1_000);
        let request = Request::post(format!("http://{address}/check"))
            .header("content-type", "application/json")
            .body(Full::from(body))
            .unwrap();
        let response = timeout(TIMEOUT, client.request(request)).await;
        let response = response.expect("in time, by HTTP").expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        response
            .into_body()
            .collect()
            .await
            .expect("a whole answer");
        load.answered.fetch_add(1, Ordering::Relaxed);
    }
}

async fn by_grpc(url: String, load: Arc<Load>) {
    let mut client = RateLimiterClient::connect(url).await.unwrap();
    for number in 0.. {
        if load.is_over() {
            return;
        }
        let request = v1::CheckLimitRequest {
            key: format!("k{}", number % 1_000),
            ..Default::default()
        };
        let response = timeout(TIMEOUT, client.check_limit(request)).await;
        match response.expect("in time, by gRPC") {
            Ok(_) => load.answered.fetch_add(1, Ordering::Relaxed),
            Err(status) if is_unsent(&status) => continue,
            Err(status) => panic!("{status:?}"),
        };
    }
}

/// Whether a call was not processed, since the server had asked to reconnect (RFC 9113, section 6.8).
fn is_unsent(status: &Status) -> bool {
    status.code() == Code::Cancelled || format!("{status:?}").contains("GoAway(b\"\", NO_ERROR")
}

/// Opens connections that send this and then nothing more.
async fn by_silence(address: SocketAddr, bytes: Vec<u8>, load: Arc<Load>) {
    let mut tasks = tokio::task::JoinSet::new();
    while !load.is_over() {
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

/// Changes the configuration, with a mistake in every third version.
async fn by_reloads(file: &Path, load: Arc<Load>) {
    for number in 0.. {
        if load.is_over() {
            return;
        }
        let limit = if number % 3 == 2 {
            "nonsense"
        } else {
            "1000000/1s"
        };
        fs::write(
            file,
            format!("[default]\nlimit = \"{limit}\"\n# {number}\n"),
        )
        .unwrap();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Kills Redis and starts it again.
async fn by_outages(redis: Arc<Server>, period: Duration, load: Arc<Load>) {
    while !load.is_over() {
        sleep(period).await;
        redis.kill();
        sleep(period / 10).await;
        redis.restart().await;
    }
}

fn descriptors(server: &Replica) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.id()))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_harm_no_others() {
    let seconds = std::env::var("TOLLGATE_SOAK_SECONDS").map_or(8, |text| text.parse().unwrap());
    let duration = Duration::from_secs(seconds);
    let redis = Arc::new(Server::start().await);
    let settings = file("");
    let server = Replica::configured(
        settings.path(),
        &[
            ("STORE__URL", &redis.url()),
            ("LISTEN__REQUEST_DEADLINE", "5s"),
            ("LISTEN__MAX_CONNECTION_AGE", "3s"),
            ("LISTEN__MAX_CONNECTIONS", "200"),
            ("LISTEN__MAX_CONNECTIONS_PER_ADDRESS", "200"),
        ],
    );
    let idle = descriptors(&server);
    let load = Arc::new(Load::default());
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(tokio::spawn(by_http(server.http(), Arc::clone(&load))));
        clients.push(tokio::spawn(by_grpc(server.grpc_url(), Arc::clone(&load))));
    }
    let preface = PREFACE.to_vec();
    let half = b"POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                 content-length: 60000\r\n\r\n"
        .to_vec();
    let mut large = half.clone();
    large.resize(59_000, b' ');
    let mut too_large = b"POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                          content-length: 1000000\r\n\r\n"
        .to_vec();
    too_large.resize(1_000_000, b' ');
    for bytes in [Vec::new(), half, large, too_large] {
        let silence = by_silence(server.http(), bytes, Arc::clone(&load));
        clients.push(tokio::spawn(silence));
    }
    clients.push(tokio::spawn(by_silence(
        server.grpc(),
        preface,
        Arc::clone(&load),
    )));
    let path = settings.path().to_owned();
    let reloads = Arc::clone(&load);
    clients.push(tokio::spawn(
        async move { by_reloads(&path, reloads).await },
    ));
    let outages = by_outages(
        Arc::clone(&redis),
        (duration / 4).min(Duration::from_secs(20)),
        Arc::clone(&load),
    );
    clients.push(tokio::spawn(outages));

    // The tables and pools are filled by then.
    sleep(duration / 2).await;
    let (half_time, began) = (server.memory(), Instant::now());
    let mut most = 0;
    while began.elapsed() < duration / 2 {
        most = most.max(server.memory());
        sleep(Duration::from_millis(100)).await;
    }
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no well-behaved client sees an error");
    }
    let answered = load.answered.load(Ordering::Relaxed);
    println!("{answered} answers; memory {half_time} KiB, then at most {most} KiB");
    assert!(answered > 100, "{answered} answers");
    // Connections come and go, and allocators keep some memory for the next.
    assert!(
        most < half_time + half_time / 4,
        "{half_time} KiB grew to {most} KiB"
    );
    let wait = Wait::until("the descriptors of all clients are closed");
    // A few more than at first, for Redis.
    while descriptors(&server) > idle + 8 {
        wait.sleep().await;
    }
}
