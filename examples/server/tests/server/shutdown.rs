//! A server that receives SIGTERM loses no request: it asks its clients to reconnect elsewhere,
//! finishes the requests in flight, and exits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::header::CONNECTION;
use hyper::{Request, StatusCode};
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::grpc::{self, CHECK_LIMIT, check_request};
use crate::support::http::{check, check_head, connect_http1, connect_http2, get, json_body};
use crate::support::{Redis, Server, TIMEOUT, Wait};

const CHECK: &str = r#"{"key":"a","rate":1000000,"interval":"1s"}"#;

/// The log line with which a shutdown begins.
const STOPPING: &str = "stopping: asking clients";

/// The delay of a shutdown under load: enough for each client to be asked, however busy the
/// machine.
const DELAY: &str = "3s";

/// Sends checks on one HTTP/1 connection until a response has the header `connection`, with which
/// the server asks to reconnect.
async fn check_by_http(address: SocketAddr, responses: Arc<AtomicU64>) {
    let mut sender = connect_http1(address).await;
    loop {
        let request = Request::post("/check")
            .header("host", "server")
            .header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(CHECK))).unwrap();
        let response = timeout(TIMEOUT, sender.send_request(request)).await;
        let response = response.expect("in time").expect("no request is lost");
        assert_eq!(response.status(), StatusCode::OK);
        let is_last = response.headers().get(CONNECTION).is_some();
        let body = response.into_body().collect().await;
        body.expect("a complete response");
        responses.fetch_add(1, Ordering::Relaxed);
        if is_last {
            return;
        }
    }
}

/// Returns a call of `CheckLimit` as it is sent over HTTP/2.
fn check_limit_call() -> Request<Full<Bytes>> {
    let message = check_request("a");
    let mut body = BytesMut::new();
    // The message is not compressed, and has this length.
    body.put_u8(0);
    body.put_u32(message.encoded_len().try_into().unwrap());
    message.encode(&mut body).unwrap();
    grpc::call(CHECK_LIMIT, Full::new(body.freeze()))
}

/// Calls `CheckLimit` on one HTTP/2 connection until the server sends GOAWAY. Panics if a call is
/// lost.
pub(crate) async fn check_by_grpc(address: SocketAddr, responses: Arc<AtomicU64>) {
    let mut sender = connect_http2(address).await;
    while sender.ready().await.is_ok() {
        let response = timeout(TIMEOUT, sender.send_request(check_limit_call())).await;
        let response = match response.expect("in time") {
            Ok(response) => response,
            // The call was not sent.
            Err(error) if error.is_canceled() => return,
            Err(error) => panic!("a call is lost: {error:?}"),
        };
        let body = response.into_body().collect().await;
        let body = body.expect("a complete response");
        let trailers = body.trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        responses.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_under_load_loses_no_request() {
    let mut server = Server::start(&[("SHUTDOWN__DELAY", DELAY), ("SHUTDOWN__DEADLINE", "20s")]);
    let responses = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..8 {
        let by_http = check_by_http(server.http(), Arc::clone(&responses));
        clients.push(tokio::spawn(by_http));
        let by_grpc = check_by_grpc(server.grpc(), Arc::clone(&responses));
        clients.push(tokio::spawn(by_grpc));
    }
    let wait = Wait::until("the clients have received 1,000 responses");
    while responses.load(Ordering::Relaxed) < 1_000 {
        wait.sleep().await;
    }
    server.signal("TERM");
    server.wait_for_log(STOPPING).await;
    // New requests are served during the delay, and load balancers see that the server stops.
    let ready = get(server.http(), "/ready").await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json_body(&ready)["stopping"], json!(true));
    let late = check(server.http(), CHECK).await;
    assert_eq!(late.status(), StatusCode::OK);
    for client in clients {
        client.await.expect("no client lost a request");
    }
    assert!(server.wait_for_exit().success());
    let connection = TcpStream::connect(server.http()).await;
    assert!(connection.is_err(), "the listener is closed");
}

#[tokio::test]
async fn request_waiting_for_redis_is_answered() {
    let redis = Redis::start().await;
    let url = redis.url();
    let mut server = Server::start(&[
        ("STORE__URL", &url),
        ("STORE__DEADLINE", "15s"),
        ("SHUTDOWN__DELAY", "0s"),
        ("SHUTDOWN__DEADLINE", "20s"),
    ]);
    check(server.http(), CHECK).await;
    redis.pause();
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let head = check_head(CHECK.len(), "expect: 100-continue\r\n");
    stream.write_all(&head).await.unwrap();
    // The server sends this when it begins to handle the request.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(CHECK.as_bytes()).await.unwrap();
    server.signal("TERM");
    let wait = Wait::until("the listener is closed");
    while TcpStream::connect(server.http()).await.is_ok() {
        wait.sleep().await;
    }
    redis.resume();
    let mut response = String::new();
    let read = timeout(TIMEOUT, stream.read_to_string(&mut response)).await;
    read.expect("in time").unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains(r#""degraded":false"#), "{response}");
    assert!(server.wait_for_exit().success());
}

#[tokio::test]
async fn idle_server_exits_on_interrupt() {
    let mut server = Server::start(&[("SHUTDOWN__DELAY", "0s")]);
    server.signal("INT");
    assert!(server.wait_for_exit().success());
}

#[tokio::test]
async fn unfinished_request_ends_at_the_shutdown_deadline() {
    let settings = [("SHUTDOWN__DELAY", "0s"), ("SHUTDOWN__DEADLINE", "100ms")];
    let mut server = Server::start(&settings);
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    // The body never comes.
    stream.write_all(&check_head(9, "")).await.unwrap();
    let health = get(server.http(), "/health").await;
    assert_eq!(health.status(), StatusCode::OK);
    server.signal("TERM");
    assert!(server.wait_for_exit().success());
}

#[tokio::test]
async fn second_signal_ends_the_server_at_once() {
    let mut server = Server::start(&[("SHUTDOWN__DELAY", "1h")]);
    server.signal("TERM");
    server.wait_for_log(STOPPING).await;
    server.signal("TERM");
    assert!(server.wait_for_exit().success());
}

/// Sends each check on a new connection until the listener is closed. Returns the number of
/// responses.
async fn check_by_new_connections(address: SocketAddr) -> u64 {
    let mut responses = 0;
    loop {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            return responses;
        };
        let mut request = check_head(CHECK.len(), "connection: close\r\n");
        request.extend(CHECK.as_bytes());
        let mut response = String::new();
        let exchange = async {
            stream.write_all(&request).await?;
            stream.read_to_string(&mut response).await
        };
        match timeout(TIMEOUT, exchange).await.expect("in time") {
            Ok(_) if response.ends_with("}") => responses += 1,
            Err(error) if response.is_empty() && was_never_accepted(address, &error).await => {
                return responses;
            }
            other => panic!("{other:?} after {response:?}"),
        }
    }
}

/// Returns whether the error comes from a connection that the server never accepted. The kernel may
/// complete a connection after the server's last `accept`, and resets it when the listener is
/// closed.
async fn was_never_accepted(address: SocketAddr, error: &std::io::Error) -> bool {
    let is_reset = error.kind() == std::io::ErrorKind::ConnectionReset;
    is_reset && TcpStream::connect(address).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_connection_is_served_after_the_signal() {
    for _ in 0..10 {
        let mut server = Server::start(&[("SHUTDOWN__DELAY", "0s")]);
        let address = server.http();
        let clients: Vec<_> = (0..12)
            .map(|_| tokio::spawn(check_by_new_connections(address)))
            .collect();
        // Its request is sent only after the signal.
        let mut early = TcpStream::connect(address).await.unwrap();
        let wait = Wait::until("the clients are served");
        while get(address, "/health").await.status() != StatusCode::OK {
            wait.sleep().await;
        }
        server.signal("TERM");
        server.wait_for_log(STOPPING).await;
        early
            .write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut response = String::new();
        let read = timeout(TIMEOUT, early.read_to_string(&mut response)).await;
        read.expect("in time").unwrap();
        assert!(response.starts_with("HTTP/1.1 200 "), "{response:?}");
        let mut responses = 0;
        for client in clients {
            responses += client.await.expect("no response is lost");
        }
        assert!(responses > 0);
        assert!(server.wait_for_exit().success());
    }
}

#[tokio::test]
async fn open_grpc_stream_does_not_delay_the_exit() {
    let mut server = Server::start(&[("SHUTDOWN__DELAY", "0s"), ("SHUTDOWN__DEADLINE", "1h")]);
    let channel = tonic::transport::Endpoint::from_shared(server.grpc_url()).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    let mut statuses = watch.into_inner();
    assert!(statuses.message().await.unwrap().is_some());
    server.signal("TERM");
    assert!(server.wait_for_exit().success());
}
