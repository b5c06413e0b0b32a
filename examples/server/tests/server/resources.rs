//! No client can keep others from connecting, or hold much of the server's memory.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{join_all, select_all};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::shutdown::check_by_grpc;
use crate::support::grpc::{CHECK_LIMIT, HEALTH_CHECK, SHOULD_RATE_LIMIT, call};
use crate::support::http::{HTTP2_PREFACE, check, check_head, connect_http2, get, try_get};
use crate::support::{Redis, Server, TIMEOUT, Wait, file};

/// Opens a connection and sends these bytes.
async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Opens a connection and sends a check.
async fn send_check(address: SocketAddr) -> TcpStream {
    let body = br#"{"key":"a"}"#;
    let request = [&*check_head(body.len(), ""), body].concat();
    send(address, &request).await
}

/// Returns a check of which only the first byte of the body is sent.
fn unfinished_check() -> Vec<u8> {
    [&*check_head(100, ""), b"{"].concat()
}

/// Reads until the server closes the connection, and returns what it sent.
async fn read_until_closed(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let read = timeout(TIMEOUT, stream.read_to_end(&mut received)).await;
    // A reset closes a connection too, and is an error here.
    let _ = read.expect("the connection is closed");
    received
}

/// Returns a gRPC message of this length whose last byte is never sent.
fn unfinished_message(length: u32) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin {
    let mut start = BytesMut::new();
    start.put_u8(0);
    start.put_u32(length);
    start.put_bytes(0, length as usize - 1);
    let start = stream::iter([Ok(Frame::data(start.freeze()))]);
    StreamBody::new(start.chain(stream::pending()))
}

/// Makes a gRPC call, and returns its status from the headers or the trailers.
async fn grpc_status<B>(sender: &mut SendRequest<B>, request: Request<B>) -> String
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    sender.ready().await.unwrap();
    let response = timeout(TIMEOUT, sender.send_request(request)).await;
    let (head, body) = response.expect("in time").expect("a response").into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned();
    let status = head.headers.get("grpc-status").cloned();
    let status = status.or_else(|| trailers?.get("grpc-status").cloned());
    status.expect("a status").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn unfinished_request_is_ended_at_the_deadline() {
    let server = Server::start(&[("LISTEN__REQUEST_DEADLINE", "300ms")]);
    let (http, grpc) = (server.http(), server.grpc());
    let unfinished_body = unfinished_check();
    let cases: [(&str, SocketAddr, &[u8]); 9] = [
        ("nothing", http, b""),
        ("one letter", http, b"P"),
        ("half of the HTTP/2 preface", http, b"PRI * HTTP/2.0\r\n"),
        (
            "an unfinished head",
            http,
            b"GET /health HTTP/1.1\r\nhost: a\r\n",
        ),
        ("an unfinished body", http, &unfinished_body),
        ("preface and settings", http, HTTP2_PREFACE),
        ("preface without settings", http, &HTTP2_PREFACE[..24]),
        ("nothing by gRPC", grpc, b""),
        ("preface and settings by gRPC", grpc, HTTP2_PREFACE),
    ];
    let mut connections = Vec::new();
    for (what, address, bytes) in cases {
        connections.push((what, send(address, bytes).await));
    }
    let mut sender = connect_http2(grpc).await;
    let status = grpc_status(&mut sender, call(CHECK_LIMIT, unfinished_message(100))).await;
    assert_eq!(status, "4", "DEADLINE_EXCEEDED");
    for (what, connection) in connections {
        let received = read_until_closed(connection).await;
        if what == "an unfinished body" {
            assert!(received.starts_with(b"HTTP/1.1 408 "), "{what}");
        }
    }
}

#[tokio::test]
async fn client_that_reads_nothing_is_disconnected() {
    let server = Server::start(&[("LISTEN__REQUEST_DEADLINE", "100ms")]);
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let requests = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1_000);
    // The responses fill all buffers, so writing ends only when the server closes the connection.
    let write = async { while stream.write_all(&requests).await.is_ok() {} };
    timeout(TIMEOUT, write)
        .await
        .expect("the connection is closed");
}

#[tokio::test]
async fn silent_connections_do_not_block_others() {
    let server = Server::with_descriptor_limit(256, &[]);
    let mut silent = Vec::new();
    for number in 0..1_000 {
        silent.push(TcpStream::connect(server.http()).await.unwrap());
        if number % 20 == 0 {
            let health = get(server.http(), "/health").await;
            assert_eq!(health.status(), StatusCode::OK, "after {number}");
        }
        // The test process has a limit of descriptors, too.
        if silent.len() > 400 {
            silent.remove(0);
        }
    }
    server.wait_for_log("too many connections").await;
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let redis = Redis::start().await;
    let server = Server::start(&[
        ("STORE__URL", &redis.url()),
        ("STORE__DEADLINE", "1h"),
        ("LISTEN__REQUEST_DEADLINE", "1h"),
        ("LISTEN__MAX_CONNECTIONS", "3"),
        ("LISTEN__MAX_CONNECTIONS_PER_ADDRESS", "2"),
    ]);
    check(server.http(), r#"{"key":"a"}"#).await;
    redis.pause();
    // The server closes no connection whose request is in flight. A third connection of the address
    // that comes before the two requests have arrived could still take the place of one of them.
    let mut both = Vec::new();
    let wait = Wait::until("both connections have a request in flight");
    loop {
        both.clear();
        both.push(send_check(server.http()).await);
        both.push(send_check(server.http()).await);
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
    let response = read_until_closed(other).await;
    let response = String::from_utf8_lossy(&response);
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let log = server.log();
    assert!(log.contains("listen.max_connections_per_address"), "{log}");
    drop(both);
}

/// Asserts that a server holds less than 1 MiB for each connection. On a busy machine, the allocator
/// also keeps what was freed while requests waited, so two more servers may show it.
async fn assert_less_than_a_mebibyte_is_held<B>(
    path: &str,
    headers: &HeaderMap,
    body: impl Fn() -> B,
) where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let mut held = Vec::new();
    while held.iter().all(|held| *held >= 1_024) {
        assert!(held.len() < 3, "a connection holds {held:?} KiB: {path}");
        held.push(held_by_a_connection(path, headers, &body).await);
    }
}

/// Sends as many of these requests on each connection as the server allows. Asserts that the server
/// refuses some of them. Returns the memory that it holds for each connection, in KiB.
async fn held_by_a_connection<B>(path: &str, headers: &HeaderMap, body: impl Fn() -> B) -> u64
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    const CONNECTIONS: u64 = 64;
    const STREAMS: u64 = 100;
    let server = Server::start(&[]);
    // The allocator keeps the memory of these calls, so that it is not counted as growth.
    for _ in 0..2 {
        let mut sender = connect_http2(server.grpc()).await;
        let calls = (0..STREAMS).map(|_| sender.send_request(call("/", Full::from(Bytes::new()))));
        join_all(calls).await;
    }
    let before = server.resident_kib();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut sender = connect_http2(server.grpc()).await;
        let mut calls = Vec::new();
        for _ in 0..STREAMS {
            let mut request = call(path, body());
            request.headers_mut().extend(headers.clone());
            calls.push(Box::pin(sender.send_request(request)));
        }
        connections.push((sender, calls));
    }
    // The server refuses a request if its connection already holds the maximum.
    for (_, calls) in &mut connections {
        let first_response = timeout(TIMEOUT, select_all(calls)).await;
        let (response, _, _) = first_response.expect("in time");
        let status = response.expect("a response").headers()["grpc-status"].clone();
        assert_eq!(status, "8", "RESOURCE_EXHAUSTED: {path}");
    }
    let held = server.resident_kib().saturating_sub(before);
    assert_eq!(get(server.http(), "/health").await.status(), StatusCode::OK);
    held / CONNECTIONS
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_holds_less_than_a_mebibyte() {
    let long_message = || unfinished_message(60_000);
    assert_less_than_a_mebibyte_is_held(CHECK_LIMIT, &HeaderMap::new(), long_message).await;
    // A repeated empty header takes one byte in HPACK, and much more in the server's memory.
    let names = (b'a'..=b'z').flat_map(|one| (b'a'..=b'z').map(move |two| [one, two]));
    let headers = names.take(210).map(|name| {
        let name = HeaderName::from_bytes(&name).unwrap();
        (name, HeaderValue::from_static(""))
    });
    let short_message = || unfinished_message(100);
    assert_less_than_a_mebibyte_is_held(HEALTH_CHECK, &headers.collect(), short_message).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_of_tiny_chunks_is_refused() {
    let server = Server::start(&[]);
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    let head = b"POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                 transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    // The server may respond and close the connection before it has read all chunks.
    let _ = stream.write_all(&b"1\r\n \r\n".repeat(60_000)).await;
    let response = read_until_closed(stream).await;
    let response = String::from_utf8_lossy(&response);
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 400 "),
        "{response}"
    );
}

#[tokio::test]
async fn grpc_message_above_64_kib_is_refused() {
    let server = Server::start(&[]);
    let mut sender = connect_http2(server.grpc()).await;
    for path in [CHECK_LIMIT, SHOULD_RATE_LIMIT, HEALTH_CHECK] {
        // The server refuses the message by its prefix, before the last byte arrives.
        let status = grpc_status(&mut sender, call(path, unfinished_message(65_538))).await;
        assert_eq!(status, "11", "OUT_OF_RANGE: {path}");
    }
}

#[tokio::test]
async fn unauthenticated_request_is_refused_before_its_body() {
    let settings = file(
        "[tenants.acme]\ntokens = [\"the-token-of-acme\"]\n[envoy]\ntokens = \
         [\"the-token-of-envoy\"]\n",
    );
    let hour = ("LISTEN__REQUEST_DEADLINE", "1h");
    let server = Server::with_config(settings.path(), &[hour]);
    let mut stream = send(server.http(), &unfinished_check()).await;
    let mut start = [0; 13];
    let read = timeout(TIMEOUT, stream.read_exact(&mut start)).await;
    read.expect("in time").unwrap();
    assert_eq!(&start, b"HTTP/1.1 401 ");

    let mut sender = connect_http2(server.grpc()).await;
    for path in [CHECK_LIMIT, SHOULD_RATE_LIMIT] {
        let status = grpc_status(&mut sender, call(path, unfinished_message(100))).await;
        assert_eq!(status, "16", "UNAUTHENTICATED: {path}");
    }
}

#[tokio::test]
async fn old_http2_connection_is_replaced_without_loss() {
    let server = Server::start(&[("LISTEN__MAX_CONNECTION_AGE", "200ms")]);
    let responses = Arc::default();
    // Returns when the server asks to reconnect, and panics if a call is lost.
    let calls = check_by_grpc(server.grpc(), Arc::clone(&responses));
    let calls = timeout(TIMEOUT, calls).await;
    calls.expect("the server ends the connection");
    assert!(responses.load(Ordering::Relaxed) > 0);
    // The server does not close an HTTP/1 connection because of its age.
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    for _ in 0..3 {
        let request = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut start = [0; 13];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 ");
        let mut rest = vec![0; 4_096];
        let _ = stream.read(&mut rest).await.unwrap();
        sleep(Duration::from_millis(150)).await;
    }
}
