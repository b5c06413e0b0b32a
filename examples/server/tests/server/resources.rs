//! No client keeps others out, nor holds much of the server's memory, however it behaves.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{join_all, select_all};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::client::{check, get, try_get};
use crate::support::{Replica, Server, TIMEOUT, Wait, file};

/// The preface of HTTP/2 and an empty SETTINGS frame (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const UNFINISHED: &[u8] = b"POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                            content-length: 100\r\n\r\n{";

const CHECK: &str = "/tollgate.v1.RateLimiter/CheckLimit";

async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// A connection with a request that waits for Redis.
async fn busy(address: SocketAddr) -> TcpStream {
    let request = b"POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                    content-length: 11\r\n\r\n{\"key\":\"a\"}";
    send(address, request).await
}

/// Reads until the server closes the connection, and returns what it sent.
async fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let read = timeout(TIMEOUT, stream.read_to_end(&mut said)).await;
    // A reset closes a connection too.
    let _ = read.expect("the connection is closed");
    said
}

/// An HTTP/2 connection.
async fn connect<B>(address: SocketAddr) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call<B>(path: &str, body: B) -> Request<B> {
    Request::post(format!("http://server{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

/// A message of this length, of which the last byte never comes.
fn unfinished(length: u32) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin {
    let mut start = BytesMut::new();
    start.put_u8(0);
    start.put_u32(length);
    start.put_bytes(0, length as usize - 1);
    let start = stream::iter([Ok(Frame::data(start.freeze()))]);
    StreamBody::new(start.chain(stream::pending()))
}

/// The status of a gRPC call, in its headers or trailers.
async fn grpc_status<B>(sender: &mut SendRequest<B>, request: Request<B>) -> String
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    sender.ready().await.unwrap();
    let response = timeout(TIMEOUT, sender.send_request(request)).await;
    let (head, body) = response.expect("in time").expect("an answer").into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned();
    let status = head.headers.get("grpc-status").cloned();
    let status = status.or_else(|| trailers?.get("grpc-status").cloned());
    status.expect("a status").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn unfinished_requests_are_ended() {
    let server = Replica::start(&[("LISTEN__REQUEST_DEADLINE", "300ms")]);
    let (http, grpc) = (server.http(), server.grpc());
    let silent: [(&str, SocketAddr, &[u8]); 9] = [
        ("nothing", http, b""),
        ("one letter", http, b"P"),
        ("half of the HTTP/2 preface", http, b"PRI * HTTP/2.0\r\n"),
        (
            "an unfinished head",
            http,
            b"GET /health HTTP/1.1\r\nhost: a\r\n",
        ),
        ("an unfinished body", http, UNFINISHED),
        ("preface and settings", http, PREFACE),
        ("preface without settings", http, &PREFACE[..24]),
        ("nothing by gRPC", grpc, b""),
        ("preface and settings by gRPC", grpc, PREFACE),
    ];
    let mut connections = Vec::new();
    for (what, address, bytes) in silent {
        connections.push((what, send(address, bytes).await));
    }
    let mut unfinished_call = connect(grpc).await;
    let status = grpc_status(&mut unfinished_call, call(CHECK, unfinished(100))).await;
    assert_eq!(status, "4", "DEADLINE_EXCEEDED");
    for (what, connection) in connections {
        let said = until_closed(connection).await;
        if what == "an unfinished body" {
            assert!(said.starts_with(b"HTTP/1.1 408 "), "{what}");
        }
    }
}

#[tokio::test]
async fn client_that_reads_nothing_is_disconnected() {
    let server = Replica::start(&[("LISTEN__REQUEST_DEADLINE", "100ms")]);
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let requests = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1_000);
    // More than the buffers between the two take, so that this ends only when the server closes.
    let write = async { while stream.write_all(&requests).await.is_ok() {} };
    timeout(TIMEOUT, write)
        .await
        .expect("the connection is closed");
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let server = Replica::with_descriptors(256, &[]);
    let mut silent = Vec::new();
    for number in 0..1_000 {
        silent.push(TcpStream::connect(server.http()).await.unwrap());
        if number % 20 == 0 {
            let answer = get(server.http(), "/health").await;
            assert_eq!(answer.status(), StatusCode::OK, "after {number}");
        }
        // The test has descriptors to save, too.
        if silent.len() > 400 {
            silent.remove(0);
        }
    }
    server.until_it_says("too many connections").await;
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let redis = Server::start().await;
    let server = Replica::start(&[
        ("STORE__URL", &redis.url()),
        ("STORE__DEADLINE", "1h"),
        ("LISTEN__REQUEST_DEADLINE", "1h"),
        ("LISTEN__MAX_CONNECTIONS", "3"),
        ("LISTEN__MAX_CONNECTIONS_PER_ADDRESS", "2"),
    ]);
    check(server.http(), r#"{"key":"a"}"#).await;
    redis.pause();
    // The server works on both, so neither is closed for a new one, unless that comes too early.
    let mut both = Vec::new();
    let wait = Wait::until("both connections are busy");
    loop {
        both.clear();
        both.push(busy(server.http()).await);
        both.push(busy(server.http()).await);
        wait.sleep().await;
        if try_get(server.http(), "/health").await.is_none() {
            break;
        }
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())
        .unwrap();
    let mut other = socket.connect(server.http()).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    other.write_all(request).await.unwrap();
    let said = until_closed(other).await;
    assert!(
        said.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&said)
    );
    let log = server.log();
    assert!(log.contains("listen.max_connections_per_address"), "{log}");
    drop(both);
}

/// Asserts that the server holds less than 1 MiB for each connection on which a client sends as many
/// of these requests as it may, and that some of them are refused.
async fn assert_little_is_held<B>(path: &str, headers: &HeaderMap, body: impl Fn() -> B)
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    const CONNECTIONS: u64 = 64;
    const STREAMS: u64 = 100;
    let server = Replica::start(&[]);
    // The allocator keeps the memory of these, so it is no part of the growth.
    for _ in 0..2 {
        let mut sender = connect(server.grpc()).await;
        let calls = (0..STREAMS).map(|_| sender.send_request(call("/", Full::from(Bytes::new()))));
        join_all(calls).await;
    }
    let before = server.memory();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut sender = connect(server.grpc()).await;
        let mut calls = Vec::new();
        for _ in 0..STREAMS {
            let mut request = call(path, body());
            request.headers_mut().extend(headers.clone());
            calls.push(Box::pin(sender.send_request(request)));
        }
        connections.push((sender, calls));
    }
    // Some are refused, once the others hold as much as one connection may.
    for (_, calls) in &mut connections {
        let answer = timeout(TIMEOUT, select_all(calls)).await;
        let (answer, _, _) = answer.expect("in time");
        let status = answer.expect("an answer").headers()["grpc-status"].clone();
        assert_eq!(status, "8", "RESOURCE_EXHAUSTED: {path}");
    }
    let held = server.memory().saturating_sub(before);
    assert!(
        held < CONNECTIONS * 1_024,
        "{CONNECTIONS} connections hold {held} KiB: {path}"
    );
    assert_eq!(get(server.http(), "/health").await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_holds_less_than_a_mebibyte() {
    // Long messages.
    assert_little_is_held(CHECK, &HeaderMap::new(), || unfinished(60_000)).await;
    // Headers that are empty, which HPACK sends as a byte each.
    let names = (b'a'..=b'z').flat_map(|one| (b'a'..=b'z').map(move |two| [one, two]));
    let headers = names.take(210).map(|name| {
        let name = HeaderName::from_bytes(&name).unwrap();
        (name, HeaderValue::from_static(""))
    });
    let health = "/grpc.health.v1.Health/Check";
    assert_little_is_held(health, &headers.collect(), || unfinished(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_tiny_chunks_are_refused() {
    let server = Replica::start(&[]);
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let head = b"POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                 transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    // The server may answer and close before it has read all.
    let _ = stream.write_all(&b"1\r\n \r\n".repeat(60_000)).await;
    let said = until_closed(stream).await;
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 400 "),
        "{said}"
    );
}

#[tokio::test]
async fn long_message_is_refused() {
    let server = Replica::start(&[]);
    let mut sender = connect(server.grpc()).await;
    let services = [
        CHECK,
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        "/grpc.health.v1.Health/Check",
    ];
    for service in services {
        // It is refused though its last byte has not come.
        let status = grpc_status(&mut sender, call(service, unfinished(65_538))).await;
        assert_eq!(status, "11", "OUT_OF_RANGE: {service}");
    }
}

#[tokio::test]
async fn stranger_is_refused_before_its_body_is_read() {
    let settings = file(
        "[tenants.acme]\ntokens = [\"the-token-of-acme\"]\n[envoy]\ntokens = \
         [\"the-token-of-envoy\"]\n",
    );
    let hour = ("LISTEN__REQUEST_DEADLINE", "1h");
    let server = Replica::configured(settings.path(), &[hour]);
    let mut stream = send(server.http(), UNFINISHED).await;
    let mut said = [0; 13];
    let read = timeout(TIMEOUT, stream.read_exact(&mut said)).await;
    read.expect("in time").unwrap();
    assert_eq!(&said, b"HTTP/1.1 401 ");

    let mut sender = connect(server.grpc()).await;
    let services = [
        CHECK,
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
    ];
    for service in services {
        let status = grpc_status(&mut sender, call(service, unfinished(100))).await;
        assert_eq!(status, "16", "UNAUTHENTICATED: {service}");
    }
}

#[tokio::test]
async fn old_http2_connection_is_replaced_without_loss() {
    let server = Replica::start(&[("LISTEN__MAX_CONNECTION_AGE", "200ms")]);
    let answered = std::sync::Arc::default();
    // Returns when the server asks to reconnect, and panics if a call is lost.
    let calls = crate::shutdown::by_grpc(server.grpc(), std::sync::Arc::clone(&answered));
    timeout(TIMEOUT, calls)
        .await
        .expect("the server ends the connection");
    assert!(answered.load(std::sync::atomic::Ordering::Relaxed) > 0);
    // HTTP/1 connections are not closed for their age.
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    for _ in 0..3 {
        let request = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut said = [0; 13];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200 ");
        let mut rest = vec![0; 4_096];
        let _ = stream.read(&mut rest).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}
