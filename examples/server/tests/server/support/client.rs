//! A client of HTTP.

use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use super::TIMEOUT;

/// An answer whose body has come.
pub(crate) type Answer = Response<String>;

/// Makes a request on a new connection. A body is JSON unless a header says otherwise.
pub(crate) async fn call(
    method: Method,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let answer = try_call(method, address, path, headers, body).await;
    answer.expect("an answer")
}

async fn try_call(
    method: Method,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, Box<dyn Error + Send + Sync>> {
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
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(parts, String::from_utf8(body.into())?))
}

/// What is answered, if anything is.
pub(crate) async fn try_get(address: SocketAddr, path: &str) -> Option<Answer> {
    try_call(Method::GET, address, path, &[], "").await.ok()
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    call(Method::GET, address, path, &[], "").await
}

/// `POST /check` with this body.
pub(crate) async fn check(address: SocketAddr, body: &str) -> Answer {
    call(Method::POST, address, "/check", &[], body.to_owned()).await
}

/// The body as JSON.
pub(crate) fn json(answer: &Answer) -> Value {
    serde_json::from_str(answer.body()).unwrap_or_else(|_| panic!("JSON: {answer:?}"))
}

/// A header that is there once, or not at all.
pub(crate) fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let mut values = answer.headers().get_all(name).iter();
    let value = values.next()?.to_str().unwrap();
    assert_eq!(values.next(), None, "`{name}` is there twice");
    Some(value)
}
