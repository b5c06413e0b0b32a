//! A small application behind a layer, and ways to ask it.

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

/// A request, which can be cloned.
pub(crate) type Request = http::Request<Empty<Bytes>>;

/// A store that answers at once, and one whose answer is a round trip away.
pub(crate) fn stores() -> [ProgrammableStore; 2] {
    let round_trip = Behavior::AnswerAfter(Duration::from_millis(5));
    [Behavior::Answer, round_trip].map(|behavior| {
        let store = ProgrammableStore::new();
        store.behave(behavior);
        store
    })
}

/// A request of this user's.
pub(crate) fn request(user: &str) -> Request {
    let mut request = Request::default();
    request.extensions_mut().insert(UserId::new(user));
    request
}

/// A call with this content type by the user `alice`.
pub(crate) fn grpc_call(content_type: &'static str, method: Method, version: Version) -> Request {
    let mut call = request("alice");
    *call.method_mut() = method;
    *call.version_mut() = version;
    let content_type = HeaderValue::from_static(content_type);
    call.headers_mut().insert(CONTENT_TYPE, content_type);
    call
}

/// Sends a request through the layer to a service that says hello.
pub(crate) async fn send(layer: &RateLimitLayer, request: Request) -> Response<ResponseBody<Body>> {
    let Ok(response) = layer.layer(service_fn(hello)).oneshot(request).await;
    response
}

pub(crate) async fn hello(_: Request) -> Result<Response<Body>, Infallible> {
    Ok(Response::new("hello".into()))
}

/// A header that is there once, or not at all.
#[track_caller]
pub(crate) fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    let mut values = response.headers().get_all(name).iter();
    let value = values.next()?.to_str().expect("a header is ASCII");
    assert_eq!(values.next(), None, "`{name}` is there twice");
    Some(value)
}

/// All of a body.
pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes, Error: Debug>,
{
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().into()).expect("a body is UTF-8")
}

/// An error that only the tests know.
#[derive(Debug, PartialEq)]
pub(crate) struct OwnError(pub(crate) u32);

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "own error {}", self.0)
    }
}

impl std::error::Error for OwnError {}
