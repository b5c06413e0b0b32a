//! A layer delays requests that a queue has admitted. A waiting request holds nothing of the inner
//! service, and a layer bounds the number of its waiting requests.

mod support;
#[path = "support/virtual_clock.rs"]
mod virtual_clock;

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::join_all;
use futures_util::{FutureExt, poll};
use http::{Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{Decision, Expose, Quota, RateLimitLayer, ResponseHeaders};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use support::{Request, TestError, header, hello, request, send};
use virtual_clock::virtual_store;

const MS: Duration = Duration::from_millis(1);

/// Ten a second, evenly spaced, of which up to 50 wait.
const SPACED: Quota = Quota::per_second(10).burst(1).queue(50);

/// Returns a store that answers at once and a store that answers after a round trip of 5 ms.
fn stores() -> [ProgrammableStore; 2] {
    [Behavior::Answer, Behavior::AnswerAfter(5 * MS)].map(|behavior| {
        let store = ProgrammableStore::with_store(virtual_store());
        store.behave(behavior);
        store
    })
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_leave_the_inner_service_to_others() {
    for store in stores() {
        let permits = Arc::new(Semaphore::new(10));
        let inner = ConcurrencyLimit::with_semaphore(service_fn(hello), permits.clone());
        let service = RateLimitLayer::new(SPACED, store).layer(inner);
        let start = Instant::now();
        let send = |user| service.clone().oneshot(request(user));

        let waiting: Vec<_> = (0..50).map(|_| tokio::spawn(send("alice"))).collect();
        sleep(50 * MS).await;
        assert_eq!(permits.available_permits(), 10);
        let before = Instant::now();
        let others = join_all((0..20).map(|user| send(["bob", "carol"][user % 2]))).await;
        let served = others.iter().filter(|response| {
            let response = response.as_ref().expect("the inner service does not fail");
            response.status() == StatusCode::OK
        });
        assert_eq!(served.count(), 20);
        // The last of ten requests of each user waits for nine tokens only.
        let elapsed = before.elapsed();
        assert!(900 * MS <= elapsed && elapsed < 910 * MS, "{elapsed:?}");

        for response in join_all(waiting).await {
            let response = response.expect("no panic").expect("no error");
            assert_eq!(response.status(), StatusCode::OK);
        }
        let elapsed = start.elapsed();
        assert!(4_900 * MS <= elapsed && elapsed < 4_910 * MS, "{elapsed:?}");
        assert_eq!(permits.available_permits(), 10);
    }
}

/// A service that panics if it is called without being polled ready. A clone is never ready.
#[derive(Default)]
struct Strict {
    is_ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            is_ready: false,
            calls: self.calls.clone(),
        }
    }
}

impl Service<Request> for Strict {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        assert!(mem::take(&mut self.is_ready), "called without being ready");
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Response::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn service_is_polled_ready_after_the_wait() {
    for store in stores() {
        let strict = Strict::default();
        let calls = strict.calls.clone();
        let mut service = RateLimitLayer::new(SPACED, store).layer(strict);
        let mut responses = Vec::new();
        for _ in 0..5 {
            let Ok(service) = service.ready().await;
            responses.push(tokio::spawn(service.call(request("alice"))));
        }
        sleep(250 * MS).await;
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        for response in join_all(responses).await {
            let Ok(response) = response.expect("no panic");
            assert_eq!(response.status(), StatusCode::OK);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn error_of_readiness_after_the_wait_passes_unchanged() {
    for store in stores() {
        let layer = RateLimitLayer::new(SPACED, store);
        send(&layer, request("alice")).await;
        let (mut service, mut handle): (_, mock::Handle<Request, Response<Body>>) =
            mock::spawn_layer(layer);
        handle.allow(1);
        assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
        let mut response = Box::pin(service.call(request("alice")));
        assert!(poll!(response.as_mut()).is_pending());
        handle.send_error(TestError(1));
        let error = response.await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&TestError(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn request_beyond_the_maximum_wait_is_rejected() {
    for store in stores() {
        let layer = RateLimitLayer::new(SPACED, store).max_wait(150 * MS);
        let responses = join_all((0..4).map(|_| send(&layer, request("alice")))).await;
        let statuses = responses.iter().map(|response| response.status().as_u16());
        assert_eq!(statuses.collect::<Vec<_>>(), [200, 200, 429, 429]);
        assert_eq!(header(&responses[3], "retry-after"), Some("1"));
        // The rejected requests took no place, so the bucket is full at 200 ms.
        sleep(110 * MS).await;
        let start = Instant::now();
        assert_eq!(send(&layer, request("alice")).await.status(), 200);
        assert!(start.elapsed() <= 6 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn number_of_waiting_requests_is_bounded() {
    for store in stores() {
        let layer = RateLimitLayer::new(SPACED, store).most_waiting(2);
        let spawn = |user: &'static str| {
            let layer = layer.clone();
            tokio::spawn(async move { send(&layer, request(user)).await.status().as_u16() })
        };
        let users = ["alice", "bob"];
        for user in users {
            assert_eq!(spawn(user).await.unwrap(), 200);
        }
        let waiting = users.map(spawn);
        sleep(10 * MS).await;
        // The waiting requests of all users are counted together.
        for user in users {
            assert_eq!(spawn(user).await.unwrap(), 429);
        }
        assert_eq!(spawn("carol").await.unwrap(), 200, "carol need not wait");

        // A request that is dropped while it waits makes room for another.
        let [alice, bob] = waiting;
        alice.abort();
        sleep(MS).await;
        let next = spawn("alice");
        assert_eq!(bob.await.unwrap(), 200);
        assert_eq!(next.await.unwrap(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn layers_bound_their_waiting_requests_separately() {
    let base = RateLimitLayer::new(SPACED, virtual_store()).most_waiting(1);
    let [one, two] = ["one", "two"].map(|scope| base.clone().scope(scope));
    for layer in [&one, &two] {
        send(layer, request("alice")).await;
    }
    let both = [&one, &two].map(|layer| send(layer, request("alice")));
    for response in join_all(both).await {
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn shadow_layer_never_waits() {
    for store in stores() {
        let layer = RateLimitLayer::new(SPACED, store)
            .shadow(true)
            .most_waiting(1);
        let start = Instant::now();
        let responses = join_all((0..52).map(|_| send(&layer, request("alice")))).await;
        assert!(start.elapsed() <= 6 * MS);
        assert!(
            responses
                .iter()
                .all(|response| response.status() == StatusCode::OK)
        );
        let shadowed = responses
            .iter()
            .filter(|response| header(response, "x-ratelimit-shadow").is_some());
        assert_eq!(shadowed.count(), 1, "the queue is full after 51 requests");
    }
}

#[tokio::test(start_paused = true)]
async fn headers_are_as_of_the_end_of_the_wait() {
    let quota = Quota::per_second(1).burst(2).queue(10);
    for store in stores() {
        let headers = ResponseHeaders::x_rate_limit().and_ietf();
        let layer = RateLimitLayer::new(quota, store).headers(headers);
        let responses = join_all((0..5).map(|_| send(&layer, request("alice")))).await;
        for (response, [remaining, reset]) in
            responses
                .iter()
                .zip([["1", "1"], ["0", "2"], ["0", "2"], ["0", "2"], ["0", "2"]])
        {
            assert_eq!(header(response, "x-ratelimit-limit"), Some("2"));
            assert_eq!(header(response, "x-ratelimit-remaining"), Some(remaining));
            assert_eq!(header(response, "x-ratelimit-reset"), Some(reset));
            let limit = header(response, "ratelimit").unwrap();
            assert_eq!(limit, format!("\"default\";r={remaining};t={reset}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn exposed_decision_has_the_delay() {
    async fn delay(request: Request) -> Result<Response<Body>, Infallible> {
        let decision: &Decision<'static> = request.extensions().get().expect("a decision");
        Ok(Response::new(format!("{:?}", decision.delay()).into()))
    }
    for store in stores() {
        let layer = RateLimitLayer::new(SPACED, store).expose(Expose::new().decision());
        let service = layer.layer(service_fn(delay));
        let calls = [(); 2].map(|()| service.clone().oneshot(request("alice")));
        for (call, expected) in join_all(calls).await.into_iter().zip(["0ns", "100ms"]) {
            let Ok(response) = call;
            assert_eq!(support::text(response).await, expected);
        }
    }
}

/// The future may be polled in a runtime although the service was called outside of one.
#[test]
fn request_called_outside_a_runtime_waits_in_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let layer = RateLimitLayer::new(SPACED, tollgate::LocalStore::new());
    let mut service = layer.layer(service_fn(hello));
    let mut call = || -> Pin<Box<dyn Future<Output = _>>> {
        let ready = service.poll_ready(&mut Context::from_waker(
            futures_util::task::noop_waker_ref(),
        ));
        assert!(ready.is_ready());
        Box::pin(service.call(request("alice")))
    };
    let first = call().now_or_never().expect("admitted at once");
    assert_eq!(first.unwrap().status(), StatusCode::OK);
    let second = call();
    assert_eq!(runtime.block_on(second).unwrap().status(), StatusCode::OK);
}
