//! The inner service is used as tower requires: polled ready before each call, called only for
//! allowed requests, and cloned only for pending decisions.

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::join_all;
use http::{Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{FailureStrategy, LocalStore, Quota, RateLimitLayer, StoreErrorKind};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use support::{Request, TestError, header, hello, request, send, stores};

/// A service that panics if it is called without being polled ready. A clone is never ready.
#[derive(Default)]
struct Strict {
    ready: bool,
    calls: Arc<AtomicUsize>,
    clones: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::SeqCst);
        Self {
            ready: false,
            calls: self.calls.clone(),
            clones: self.clones.clone(),
        }
    }
}

impl Service<Request> for Strict {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        assert!(mem::take(&mut self.ready), "called without being ready");
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn immediate_decision_calls_the_ready_service() {
    let failing = ProgrammableStore::new();
    failing.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let quota = Quota::per_day(3);
    for layer in [
        RateLimitLayer::new(quota, LocalStore::new()),
        RateLimitLayer::new(quota, failing),
    ] {
        let layer = layer.skip(|parts| parts.uri.path() == "/health");
        let strict = Strict::default();
        let (calls, clones) = (strict.calls.clone(), strict.clones.clone());
        let mut service = layer.layer(strict);
        let mut statuses = Vec::new();
        for path in ["/", "/", "/health", "/", "/", "/"] {
            let mut request = request("alice");
            *request.uri_mut() = path.parse().unwrap();
            let Ok(service) = service.ready().await;
            let Ok(response) = service.call(request).await;
            statuses.push(response.status().as_u16());
        }
        assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
        assert_eq!(calls.load(Ordering::SeqCst), 4);
        assert_eq!(clones.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn pending_decision_takes_the_ready_service() {
    let [_, store] = stores();
    let strict = Strict::default();
    let (calls, clones) = (strict.calls.clone(), strict.clones.clone());
    let mut service = RateLimitLayer::new(Quota::per_day(4), store).layer(strict);

    for sequential in 1..=3 {
        let Ok(service) = service.ready().await;
        let Ok(response) = service.call(request("alice")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(clones.load(Ordering::SeqCst), sequential);
    }
    let mut concurrent = Vec::new();
    for _ in 0..3 {
        let Ok(service) = service.ready().await;
        concurrent.push(service.call(request("alice")));
    }
    let responses = join_all(concurrent).await;
    let allowed = |response: &&Result<Response<_>, _>| response.as_ref().unwrap().status() == 200;
    assert_eq!(responses.iter().filter(allowed).count(), 1);
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(clones.load(Ordering::SeqCst), 6);
}

type Handle = mock::Handle<Request, Response<Body>>;

#[tokio::test(start_paused = true)]
async fn layer_is_ready_when_inner_service_is() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(10), store);
        let (mut service, mut handle): (_, Handle) = mock::spawn_layer(layer);
        handle.allow(0);
        assert!(service.poll_ready().is_pending());
        assert!(!service.is_woken());
        handle.allow(1);
        assert!(service.is_woken());
        for _ in 0..2 {
            assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
        }

        let response = service.call(request("alice"));
        let answer = async {
            let (_, answer) = handle.next_request().await.unwrap();
            // The mock has allowed one request, so neither the service nor its clone is ready.
            assert!(service.poll_ready().is_pending());
            answer.send_response(Response::default());
        };
        let (response, ()) = tokio::join!(response, answer);
        assert_eq!(response.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn inner_service_errors_pass_unchanged() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(10), store);
        let (mut service, mut handle): (_, Handle) = mock::spawn_layer(layer);
        handle.send_error(TestError(1));
        let Poll::Ready(Err(error)) = service.poll_ready() else {
            panic!("the error of the inner service is lost");
        };
        assert_eq!(error.downcast_ref(), Some(&TestError(1)));

        assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
        let answer = async {
            let (_, answer) = handle.next_request().await.unwrap();
            answer.send_error(TestError(2));
        };
        let (response, ()) = tokio::join!(service.call(request("alice")), answer);
        assert_eq!(response.unwrap_err().downcast_ref(), Some(&TestError(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn denied_request_never_reaches_inner_service() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(1), store);
        assert_eq!(send(&layer, request("alice")).await.status(), 200);

        let (mut service, mut handle): (_, Handle) = mock::spawn_layer(layer);
        for _ in 0..3 {
            assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
            let response = service.call(request("alice")).await.unwrap();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        }
        assert!(handle.poll_request().is_pending());
        // The next allowed request does reach it.
        let answer = async {
            let (_, answer) = handle.next_request().await.unwrap();
            answer.send_response(Response::default());
        };
        assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
        let (response, ()) = tokio::join!(service.call(request("bob")), answer);
        assert_eq!(
            header(&response.unwrap(), "x-ratelimit-remaining"),
            Some("0")
        );
    }
}

/// Sends a request of this user and returns the status. Panics if the service is not ready in time.
async fn status<S, B>(service: &mut S, user: &str) -> u16
where
    S: Service<Request, Response = Response<B>, Error = Infallible>,
{
    let ready = timeout(Duration::from_secs(1), service.ready()).await;
    let Ok(service) = ready.expect("the service is ready within a second");
    let Ok(response) = service.call(request(user)).await;
    response.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn rejections_leak_no_permit_of_inner_service() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(1), store.clone())
            .failure_strategy(FailureStrategy::Closed);
        let permits = Arc::new(Semaphore::new(1));
        let inner = ConcurrencyLimit::with_semaphore(service_fn(hello), permits.clone());
        let mut service = layer.layer(inner);

        assert_eq!(status(&mut service, "alice").await, 200);
        for _ in 0..3 {
            assert_eq!(status(&mut service.clone(), "alice").await, 429);
            assert_eq!(permits.available_permits(), 1);
        }
        for _ in 0..3 {
            assert_eq!(status(&mut service, "alice").await, 429);
        }
        assert_eq!(status(&mut service, "bob").await, 200);
        store.behave(Behavior::Hang);
        assert_eq!(status(&mut service, "bob").await, 429);
        assert_eq!(permits.available_permits(), 1);
    }
}
