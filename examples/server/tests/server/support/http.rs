//! Clients of the HTTP and admin listeners.
//!
//! [`check`] and [`get`] make the usual requests, and [`call`] makes any. The parts below them are
//! for tests of connections: [`connect_http1`] and [`connect_http2`] open one, and [`check_head`]
//! is for tests that write bytes themselves.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::TIMEOUT;

/// A response whose body has been read.
pub(crate) type Response = hyper::Response<String>;

/// Makes a request on a new connection. A body is JSON unless a header says otherwise.
pub(crate) async fn call(
    method: Method,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response {
    let response = try_call(method, address, path, headers, body).await;
    response.expect("a response")
}

async fn try_call(
    method: Method,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Response, Box<dyn Error + Send + Sync>> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.into();
    let has_type = headers.iter().any(|(name, _)| *name == "content-type");
    if !body.is_empty() && !has_type {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(Full::new(body))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = timeout(TIMEOUT, client.request(request)).await??;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(head, String::from_utf8(body.into())?))
}

/// Sends `GET` for the path.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Response {
    call(Method::GET, address, path, &[], "").await
}

/// Sends `GET` for the path, and returns `None` if there is no response.
pub(crate) async fn try_get(address: SocketAddr, path: &str) -> Option<Response> {
    try_call(Method::GET, address, path, &[], "").await.ok()
}

/// Sends `POST /check` with this body.
pub(crate) async fn check(address: SocketAddr, body: &str) -> Response {
    check_with_token(address, None, body).await
}

/// Sends `POST /check` with this body and this bearer token.
pub(crate) async fn check_with_token(
    address: SocketAddr,
    token: Option<&str>,
    body: &str,
) -> Response {
    let value = token.map(|token| format!("Bearer {token}"));
    let header = value.as_deref().map(|value| ("authorization", value));
    let headers = header.as_slice();
    call(Method::POST, address, "/check", headers, body.to_owned()).await
}

/// Returns the body as JSON.
pub(crate) fn json_body(response: &Response) -> Value {
    let body = serde_json::from_str(response.body());
    body.unwrap_or_else(|_| panic!("not JSON: {response:?}"))
}

/// Returns the value of a header, or `None` if it is absent. Panics if the header is there twice.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut values = response.headers().get_all(name).iter();
    let value = values.next()?.to_str().unwrap();
    assert_eq!(values.next(), None, "`{name}` is there twice");
    Some(value)
}

/// The bytes with which a client begins an HTTP/2 connection: the preface and an empty SETTINGS
/// frame (RFC 9113, section 3.4).
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Opens an HTTP/1 connection.
pub(crate) async fn connect_http1(address: SocketAddr) -> http1::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    sender
}

/// Opens an HTTP/2 connection.
pub(crate) async fn connect_http2<B>(address: SocketAddr) -> http2::SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    sender
}

/// Returns the bytes of the head of an HTTP/1 request `POST /check` whose body has this length.
/// In `other_headers`, each header ends with `\r\n`.
pub(crate) fn check_head(body_length: usize, other_headers: &str) -> Vec<u8> {
    let head = format!(
        "POST /check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {body_length}\r\n{other_headers}\r\n"
    );
    head.into_bytes()
}
