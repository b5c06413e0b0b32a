//! An outgoing layer makes a client keep to the limits of the servers that it calls.

mod support;
#[path = "support/virtual_clock.rs"]
mod virtual_clock;

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use tokio::time::Instant;
use tollgate::{Decision, LocalStore, Quota, RateLimitLayer};
use tower::{Layer, ServiceExt, service_fn};

use support::{Request, header, text};
use virtual_clock::virtual_store;

const MS: Duration = Duration::from_millis(1);

fn get(uri: &str) -> Request {
    let mut request = Request::default();
    *request.uri_mut() = uri.parse().unwrap();
    request
}

/// A server that limits its clients too.
async fn server(_: Request) -> Result<Response<Body>, Infallible> {
    let mut response = Response::new(Body::from("hello"));
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-remaining", "7".parse().unwrap());
    Ok(response)
}

async fn call(layer: &RateLimitLayer, uri: &str) -> Response<tollgate::ResponseBody<Body>> {
    let Ok(response) = layer.layer(service_fn(server)).oneshot(get(uri)).await;
    response
}

#[tokio::test(start_paused = true)]
async fn calls_of_each_host_are_evenly_spaced() {
    let quota = Quota::per_second(10).burst(1).queue(600);
    let layer = &RateLimitLayer::outgoing(quota, virtual_store());
    let start = Instant::now();
    let hosts = ["http://a.example/", "https://b.example:8443/x"];
    let calls = (0..40).map(|number| async move {
        let response = call(layer, hosts[number % 2]).await;
        assert_eq!(response.status(), StatusCode::OK);
        start.elapsed()
    });
    for (number, elapsed) in join_all(calls).await.into_iter().enumerate() {
        let expected = 100 * MS * (number / 2) as u32;
        assert!(
            expected <= elapsed && elapsed <= expected + 2 * MS,
            "{elapsed:?}"
        );
    }
}

#[tokio::test]
async fn responses_of_servers_stay_as_they_are() {
    let layer = RateLimitLayer::outgoing(Quota::per_day(1), LocalStore::new());
    let response = call(&layer, "http://a.example/").await;
    assert_eq!(header(&response, "x-ratelimit-remaining"), Some("7"));
    assert_eq!(response.headers().len(), 1);
    assert!(response.extensions().get::<Decision<'static>>().is_none());
    assert_eq!(text(response).await, "hello");

    let shadow = layer.shadow(true);
    for uri in ["http://a.example/", "/no-host"] {
        let response = call(&shadow, uri).await;
        assert_eq!(
            (response.status(), response.headers().len()),
            (StatusCode::OK, 1)
        );
    }
}

#[tokio::test]
async fn rejection_by_the_layer_has_the_decision() {
    let layer = RateLimitLayer::outgoing(Quota::per_day(1), LocalStore::new());
    call(&layer, "http://A.example").await;
    let response = call(&layer, "http://a.example:80/path").await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(header(&response, "retry-after").is_some());
    let decision: Option<&Decision<'static>> = response.extensions().get();
    assert!(!decision.expect("a decision").is_allowed());
    assert_eq!(
        call(&layer, "https://a.example:80").await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn request_without_a_host_is_rejected_with_the_fix() {
    let layer = RateLimitLayer::outgoing(Quota::per_day(1), LocalStore::new());
    let response = call(&layer, "/path").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = text(response).await;
    assert!(
        !cfg!(debug_assertions) || text.contains("absolute URI"),
        "{text}"
    );
}
