//! A small application behind a [`RateLimitLayer`], and functions that send it requests.
//!
//! Use it in a test with `mod support;`. No server is needed: the stores are `ProgrammableStore`s.

#![allow(dead_code, reason = "no test needs all of it")]

use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, Version};
use http_body_util::{BodyExt, Empty};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{RateLimitLayer, ResponseBody, UserId};
use tower::{Layer, ServiceExt, service_fn};

/// A request without a body, which can be cloned.
pub(crate) type Request = http::Request<Empty<Bytes>>;

/// Returns a store that answers at once and a store that answers after a round trip of 5 ms.
pub(crate) fn stores() -> [ProgrammableStore; 2] {
    let round_trip = Behavior::AnswerAfter(Duration::from_millis(5));
    [Behavior::Answer, round_trip].map(|behavior| {
        let store = ProgrammableStore::new();
        store.behave(behavior);
        store
    })
}

/// Returns a request of the user `user`.
pub(crate) fn request(user: &str) -> Request {
    let mut request = Request::default();
    request.extensions_mut().insert(UserId::new(user));
    request
}

/// Returns a request of the user `alice` with the content type of a gRPC call.
pub(crate) fn grpc_call(content_type: &'static str, method: Method, version: Version) -> Request {
    let mut call = request("alice");
    *call.method_mut() = method;
    *call.version_mut() = version;
    let content_type = HeaderValue::from_static(content_type);
    call.headers_mut().insert(CONTENT_TYPE, content_type);
    call
}

/// Sends a request through the layer to [`hello`].
pub(crate) async fn send(layer: &RateLimitLayer, request: Request) -> Response<ResponseBody<Body>> {
    let Ok(response) = layer.layer(service_fn(hello)).oneshot(request).await;
    response
}

/// The inner service: answers every request with `hello`.
pub(crate) async fn hello(_: Request) -> Result<Response<Body>, Infallible> {
    Ok(Response::new("hello".into()))
}

/// Returns the value of a header, or `None` if it is absent. Panics if it occurs twice.
#[track_caller]
pub(crate) fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    let mut values = response.headers().get_all(name).iter();
    let value = values.next()?.to_str().expect("a header is ASCII");
    assert_eq!(values.next(), None, "`{name}` occurs twice");
    Some(value)
}

/// Reads the whole body.
pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes, Error: Debug>,
{
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().into()).expect("a body is UTF-8")
}

/// An error that the crate does not know, to see that it is passed on unchanged.
#[derive(Debug, PartialEq)]
pub(crate) struct TestError(pub(crate) u32);

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "test error {}", self.0)
    }
}

impl std::error::Error for TestError {}
