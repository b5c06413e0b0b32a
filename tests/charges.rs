//! A layer settles charges by the response, and holds slots until the response has ended.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tollgate::{Charge, Expose, Identity, LocalStore, Quota, RateLimitLayer};
use tower::{Layer, ServiceExt, service_fn};

const HOUR: Duration = Duration::from_secs(3_600);

fn layer(quota: Quota) -> RateLimitLayer {
    RateLimitLayer::new(quota, LocalStore::with_capacity(8))
        .identify_by(|_: &http::request::Parts| Ok(Identity::user("alice")))
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = path.parse().expect("a path");
    request
}

/// Answers with the status in the path.
async fn status_in_path(
    request: Request<Empty<Bytes>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = request.uri().path()[1..].parse().expect("a status");
    let mut response = Response::new(Full::from("body"));
    *response.status_mut() = status;
    Ok(response)
}

/// Sends a request, and returns the status and the remaining requests of the response.
async fn send(layer: &RateLimitLayer, path: &str) -> (u16, u32) {
    let service = layer.layer(service_fn(status_in_path));
    let response = service.oneshot(request(path)).await.expect("a response");
    let remaining = &response.headers()["x-ratelimit-remaining"];
    let remaining = remaining
        .to_str()
        .expect("digits")
        .parse()
        .expect("a number");
    (response.status().as_u16(), remaining)
}

#[tokio::test]
async fn only_responses_that_charge_if_chooses_are_charged() {
    for quota in [Quota::sliding_window(2, HOUR), Quota::per_hour(2)] {
        let layer = layer(quota).charge_if(|response| response.status != StatusCode::OK);
        assert_eq!(send(&layer, "/200").await, (200, 2), "{quota}");
        assert_eq!(send(&layer, "/401").await, (401, 1), "{quota}");
        assert_eq!(send(&layer, "/200").await, (200, 1), "{quota}");
        assert_eq!(send(&layer, "/500").await, (500, 0), "{quota}");
        assert_eq!(send(&layer, "/200").await, (429, 0), "{quota}");
    }
}

#[tokio::test]
async fn parallel_requests_never_exceed_the_limit() {
    let layer = layer(Quota::fixed_window(5, HOUR))
        .charge_if(|response| response.status == StatusCode::UNAUTHORIZED);
    let service = layer.layer(service_fn(|request| async {
        tokio::task::yield_now().await;
        status_in_path(request).await
    }));
    let guesses = (0..200).map(|_| service.clone().oneshot(request("/401")));
    let answers = futures_util::future::join_all(guesses).await;
    let answered = answers
        .iter()
        .filter(|answer| answer.as_ref().expect("a response").status() == 401);
    assert_eq!(answered.count(), 5);
}

#[tokio::test]
async fn settle_by_charges_what_the_response_says() {
    let layer = layer(Quota::per_hour(1_000))
        .cost_for(|_| 500)
        .settle_by(|response| (response.status == StatusCode::OK).then_some(20));
    assert_eq!(send(&layer, "/200").await, (200, 980));
    assert_eq!(send(&layer, "/202").await, (202, 480));
    assert_eq!(send(&layer, "/200").await, (429, 480));
}

#[tokio::test]
async fn reset_if_forgets_earlier_charges() {
    let layer = layer(Quota::fixed_window(2, HOUR))
        .charge_if(|response| response.status == StatusCode::UNAUTHORIZED)
        .reset_if(|response| response.status == StatusCode::OK);
    assert_eq!(send(&layer, "/401").await, (401, 1));
    assert_eq!(send(&layer, "/200").await.0, 200);
    assert_eq!(send(&layer, "/401").await, (401, 1));
}

#[tokio::test]
async fn handler_reports_what_it_used() {
    let layer = layer(Quota::per_hour(100))
        .cost_for(|_| 50)
        .expose(Expose::new().charge());
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| async move {
        let charge = request
            .extensions()
            .get::<Charge>()
            .expect("an exposed charge");
        assert_eq!(charge.cost(), 50);
        charge.add(3);
        charge.add(4);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let response = service.oneshot(request("/")).await.expect("a response");
    assert_eq!(response.headers()["x-ratelimit-remaining"], "93");
    drop(response);
    assert_eq!(send(&layer, "/200").await, (200, 43));
}

#[tokio::test]
async fn error_of_the_service_stays_charged() {
    let layer = layer(Quota::fixed_window(2, HOUR)).charge_if(|_| false);
    let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| async {
        Err::<Response<Full<Bytes>>, _>("no response")
    }));
    assert!(service.oneshot(request("/")).await.is_err());
    assert_eq!(send(&layer, "/200").await, (200, 1));
}

#[tokio::test]
async fn client_that_hangs_up_stays_charged() {
    let layer = layer(Quota::fixed_window(2, HOUR)).charge_if(|_| false);
    let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| {
        pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    assert!(service.oneshot(request("/")).now_or_never().is_none());
    assert_eq!(send(&layer, "/200").await, (200, 1));
}

#[tokio::test]
async fn slot_is_taken_until_the_body_has_ended() {
    let layer = layer(Quota::concurrent(1));
    let service = layer.layer(service_fn(status_in_path));
    let send = || async {
        service
            .clone()
            .oneshot(request("/200"))
            .await
            .expect("a response")
    };

    let mut first = send().await;
    assert_eq!(send().await.status(), StatusCode::TOO_MANY_REQUESTS);
    while first.body_mut().frame().await.is_some() {}
    let second = send().await;
    assert_eq!(second.status(), StatusCode::OK);
    assert_eq!(send().await.status(), StatusCode::TOO_MANY_REQUESTS);
    // A response to HEAD: its body is never polled.
    drop(second);
    assert_eq!(send().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn slot_is_free_if_the_response_never_comes() {
    let layer = layer(Quota::concurrent(1));
    let hanging = layer.layer(service_fn(|_: Request<Empty<Bytes>>| {
        pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    let mut waiting = Box::pin(hanging.oneshot(request("/")));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(send(&layer, "/200").await.0, 429);
    drop(waiting);
    assert_eq!(send(&layer, "/200").await.0, 200);
}

#[tokio::test]
async fn upgraded_connection_holds_its_slot() {
    let layer = layer(Quota::concurrent(1)).expose(Expose::new().charge());
    let (holds, mut held) = tokio::sync::mpsc::unbounded_channel();
    let service = layer.layer(service_fn(move |request: Request<Empty<Bytes>>| {
        let charge = request
            .extensions()
            .get::<Charge>()
            .expect("an exposed charge");
        let sent = holds.send(charge.hold());
        async move { sent.map(|()| Response::new(Full::<Bytes>::default())) }
    }));
    drop(service.oneshot(request("/")).await);
    assert_eq!(send(&layer, "/200").await.0, 429);
    drop(held.recv().await);
    assert_eq!(send(&layer, "/200").await.0, 200);
}
