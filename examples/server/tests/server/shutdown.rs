//! Told to stop under load, the server loses no request: it asks its clients to go elsewhere,
//! finishes what is under way, and ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::header::CONNECTION;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::client::{get, json};
use crate::support::protocol::tollgate::v1;
use crate::support::{Replica, Server, TIMEOUT, Wait, client};

const ASK: &str = r#"{"key":"a","rate":1000000,"interval":"1s"}"#;

/// So long that no client is too slow to hear of it, however busy the machine.
const DELAY: &str = "3s";

/// Asks by HTTP/1 on one connection until it is asked to go elsewhere.
async fn by_http(address: SocketAddr, answered: Arc<AtomicU64>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    loop {
        let request = Request::post("/check")
            .header("host", "server")
            .header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(ASK))).unwrap();
        let response = timeout(TIMEOUT, sender.send_request(request)).await;
        let response = response.expect("in time").expect("no request is lost");
        assert_eq!(response.status(), StatusCode::OK);
        let is_last = response.headers().get(CONNECTION).is_some();
        response
            .into_body()
            .collect()
            .await
            .expect("a whole answer");
        answered.fetch_add(1, Ordering::Relaxed);
        if is_last {
            return;
        }
    }
}

/// A call of `CheckLimit` as it goes over the wire.
fn grpc_request() -> Request<Full<Bytes>> {
    let message = v1::CheckLimitRequest {
        key: "a".into(),
        ..Default::default()
    };
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.encoded_len().try_into().unwrap());
    message.encode(&mut body).unwrap();
    Request::post("http://server/tollgate.v1.RateLimiter/CheckLimit")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))
        .unwrap()
}

/// Asks by HTTP/2 on one connection until the server says that it takes no more on it.
pub(crate) async fn by_grpc(address: SocketAddr, answered: Arc<AtomicU64>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    while sender.ready().await.is_ok() {
        let response = timeout(TIMEOUT, sender.send_request(grpc_request())).await;
        let response = match response.expect("in time") {
            Ok(response) => response,
            // It was not sent.
            Err(error) if error.is_canceled() => return,
            Err(error) => panic!("a call is lost: {error:?}"),
        };
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a whole answer");
        let status = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"));
        assert_eq!(status.unwrap(), "0");
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load() {
    let mut server = Replica::start(&[("SHUTDOWN__DELAY", DELAY), ("SHUTDOWN__DEADLINE", "20s")]);
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(tokio::spawn(by_http(server.http(), Arc::clone(&answered))));
        clients.push(tokio::spawn(by_grpc(server.grpc(), Arc::clone(&answered))));
    }
    let wait = Wait::until("the load is on");
    while answered.load(Ordering::Relaxed) < 1_000 {
        wait.sleep().await;
    }
    server.signal("TERM");
    server.until_it_says("stopping: asking clients").await;
    // Whoever still comes is served, and the balancer is told.
    let ready = get(server.http(), "/ready").await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json(&ready)["stopping"], json!(true));
    let late = client::check(server.http(), ASK).await;
    assert_eq!(late.status(), StatusCode::OK);
    for client in clients {
        client.await.expect("no client lost a request");
    }
    assert!(server.end().success());
    assert!(
        TcpStream::connect(server.http()).await.is_err(),
        "nobody listens"
    );
}

#[tokio::test]
async fn what_waits_for_redis_is_answered() {
    let redis = Server::start().await;
    let url = redis.url();
    let mut server = Replica::start(&[
        ("STORE__URL", &url),
        ("STORE__DEADLINE", "15s"),
        ("SHUTDOWN__DELAY", "0s"),
        ("SHUTDOWN__DEADLINE", "20s"),
    ]);
    client::check(server.http(), ASK).await;
    redis.pause();
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let head = format!(
        "POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        ASK.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Which it says when it begins with the request.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(ASK.as_bytes()).await.unwrap();
    server.signal("TERM");
    let wait = Wait::until("no connection is taken");
    while TcpStream::connect(server.http()).await.is_ok() {
        wait.sleep().await;
    }
    redis.resume();
    let mut answer = String::new();
    let read = timeout(TIMEOUT, stream.read_to_string(&mut answer)).await;
    read.expect("in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""degraded":false"#), "{answer}");
    assert!(server.end().success());
}

#[tokio::test]
async fn an_idle_server_ends_soon_and_an_impatient_one_too() {
    let mut server = Replica::start(&[("SHUTDOWN__DELAY", "0s")]);
    server.signal("INT");
    assert!(server.end().success());

    // A client that never finishes its request does not keep it.
    let mut server = Replica::start(&[("SHUTDOWN__DELAY", "0s"), ("SHUTDOWN__DEADLINE", "100ms")]);
    let stream = TcpStream::connect(server.http()).await.unwrap();
    stream.writable().await.unwrap();
    stream
        .try_write(b"POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n")
        .unwrap();
    let answered = get(server.http(), "/health").await;
    assert_eq!(answered.status(), StatusCode::OK);
    server.signal("TERM");
    assert!(server.end().success());
}

#[tokio::test]
async fn told_twice_it_ends_at_once() {
    let mut server = Replica::start(&[("SHUTDOWN__DELAY", "1h")]);
    server.signal("TERM");
    server.until_it_says("stopping: asking clients").await;
    server.signal("TERM");
    assert!(server.end().success());
}

/// Connects anew for each request until the listener is closed. Returns how many were answered.
async fn by_new_connections(address: SocketAddr) -> u64 {
    let mut answered = 0;
    loop {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            return answered;
        };
        let request = format!(
            "POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{ASK}",
            ASK.len()
        );
        let mut answer = String::new();
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_string(&mut answer).await
        };
        match timeout(TIMEOUT, exchange).await.expect("in time") {
            Ok(_) if answer.ends_with("}") => answered += 1,
            // The kernel took this connection between the last `accept` and the end of the listener.
            Err(error) if answer.is_empty() && is_last(address, &error).await => return answered,
            other => panic!("{other:?} after {answer:?}"),
        }
    }
}

/// Whether a connection was reset since its listener ended.
async fn is_last(address: SocketAddr, error: &std::io::Error) -> bool {
    let is_reset = error.kind() == std::io::ErrorKind::ConnectionReset;
    is_reset && TcpStream::connect(address).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_connection_is_served_to_its_end() {
    for _ in 0..10 {
        let mut server = Replica::start(&[("SHUTDOWN__DELAY", "0s")]);
        let address = server.http();
        let clients: Vec<_> = (0..12)
            .map(|_| tokio::spawn(by_new_connections(address)))
            .collect();
        // Accepted, with a request that is still on its way when the server stops.
        let mut early = TcpStream::connect(address).await.unwrap();
        let wait = Wait::until("the clients are served");
        while get(address, "/health").await.status() != StatusCode::OK {
            wait.sleep().await;
        }
        server.signal("TERM");
        server.until_it_says("stopping: asking clients").await;
        early
            .write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let read = timeout(TIMEOUT, early.read_to_string(&mut answer)).await;
        read.expect("in time").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        let mut answered = 0;
        for client in clients {
            answered += client.await.expect("no answer is lost");
        }
        assert!(answered > 0);
        assert!(server.end().success());
    }
}

#[tokio::test]
async fn open_stream_does_not_delay_the_end() {
    let mut server = Replica::start(&[("SHUTDOWN__DELAY", "0s"), ("SHUTDOWN__DEADLINE", "1h")]);
    let channel = tonic::transport::Endpoint::from_shared(server.grpc_url()).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    let mut statuses = watch.into_inner();
    assert!(statuses.message().await.unwrap().is_some());
    server.signal("TERM");
    assert!(server.end().success());
}
