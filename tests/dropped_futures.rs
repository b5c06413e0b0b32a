//! A response future can be dropped at any point without a panic. No lock or permit is kept, and at most the
//! charge of its own request is lost.

mod support;

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::FutureExt;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{Limiter, LocalStore, Quota, RateLimitLayer};
use tower::limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

use support::{Request, header, hello, request, send};

const MS: Duration = Duration::from_millis(1);

/// Returns what is left for `alice`, and charges nothing.
async fn peek_remaining(layer: &RateLimitLayer) -> u32 {
    let free = layer.clone().cost_for(|_| 0);
    let response = send(&free, request("alice")).await;
    let remaining = header(&response, "x-ratelimit-remaining").unwrap();
    remaining.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn response_dropped_while_store_hangs_charges_nothing() {
    let store = ProgrammableStore::new();
    let layer = RateLimitLayer::new(Quota::per_day(10), store.clone());
    let permits = Arc::new(Semaphore::new(1));
    let inner = ConcurrencyLimit::with_semaphore(service_fn(hello), permits.clone());
    let mut service = layer.layer(inner);

    store.behave(Behavior::Hang);
    for polled in [false, true, true] {
        let Ok(service) = service.ready().await;
        let mut response = Box::pin(service.call(request("alice")));
        if polled {
            assert!(response.as_mut().now_or_never().is_none());
        }
        assert_eq!(permits.available_permits(), 0);
        drop(response);
        assert_eq!(permits.available_permits(), 1);
    }
    assert_eq!(store.calls(), 3);

    store.behave(Behavior::Answer);
    let Ok(response) = service.oneshot(request("alice")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-ratelimit-remaining"), Some("9"));
    assert_eq!(header(&response, "x-ratelimit-degraded"), None);
}

#[tokio::test(start_paused = true)]
async fn response_dropped_after_its_charge_costs_one() {
    let store = ProgrammableStore::new();
    let layer = RateLimitLayer::new(Quota::per_day(10), store.clone());
    // The store has charged the request, and its answer is pending.
    store.behave(Behavior::AnswerAfter(10 * MS));
    let response = timeout(5 * MS, send(&layer, request("alice"))).await;
    assert!(response.is_err());
    store.behave(Behavior::Answer);
    assert_eq!(peek_remaining(&layer).await, 9);

    // The store has answered, and the inner service is pending.
    let stuck = service_fn(|_: Request| pending::<Result<Response<Body>, Infallible>>());
    let response = layer.layer(stuck).oneshot(request("alice"));
    assert!(timeout(5 * MS, response).await.is_err());
    assert_eq!(peek_remaining(&layer).await, 8);
}

#[tokio::test(start_paused = true)]
async fn many_dropped_responses_release_all_permits() {
    let store = ProgrammableStore::new();
    let layer = RateLimitLayer::new(Quota::per_day(1_000), store.clone());
    let permits = Arc::new(Semaphore::new(100));
    let inner = ConcurrencyLimit::with_semaphore(service_fn(hello), permits.clone());
    let service = layer.layer(inner);

    let mut requests = JoinSet::new();
    for patience in 0..100 {
        let behavior = match patience % 3 {
            0 => Behavior::Hang,
            1 => Behavior::AnswerAfter(20 * MS),
            _ => Behavior::Answer,
        };
        store.behave(behavior);
        let mut service = service.clone();
        let Ok(service) = service.ready().await;
        let response = service.call(request("alice"));
        requests.spawn(timeout(patience % 50 * MS, response));
    }
    while let Some(result) = requests.join_next().await {
        // A timeout is fine, a panic is not.
        let _ = result.unwrap();
    }
    assert_eq!(permits.available_permits(), 100);

    store.behave(Behavior::Answer);
    // The hanging store has counted none of 34 requests.
    assert_eq!(peek_remaining(&layer).await, 1_000 - 66);
    assert_eq!(send(&layer, request("alice")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_tasks_release_all_locks() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::builder(store.clone())
        .deadline(Duration::from_secs(60))
        .build();
    let layer = RateLimitLayer::new(Quota::per_day(1_000), limiter);
    for _ in 0..20 {
        store.behave(Behavior::Hang);
        let mut requests = JoinSet::new();
        for _ in 0..20 {
            let layer = layer.clone();
            requests.spawn(async move { send(&layer, request("alice")).await });
        }
        requests.shutdown().await;
        store.behave(Behavior::Answer);
        assert_eq!(send(&layer, request("bob")).await.status(), 200);
    }
    assert_eq!(peek_remaining(&layer).await, 1_000);
}

#[tokio::test]
async fn closed_connection_drops_the_pending_request() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::Hang);
    let limiter = Limiter::builder(store.clone())
        .deadline(Duration::from_secs(3_600))
        .build();
    let permits = Arc::new(Semaphore::new(1));
    let app = Router::new()
        .route("/", get(async || "hello"))
        .layer(RateLimitLayer::new(Quota::per_day(1), limiter))
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async { axum::serve(listener, service).await });

    let send = async || {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        client
    };
    let client = send().await;
    while store.calls() == 0 {
        yield_now().await;
    }
    assert_eq!(permits.available_permits(), 0);
    drop(client);
    // A free permit means that the server has dropped the request, although the store hangs.
    let permit = timeout(Duration::from_secs(60), permits.acquire()).await;
    drop(permit.expect("the server noticed within a minute"));

    store.behave(Behavior::Answer);
    let mut response = String::new();
    send().await.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(
        response.contains("\r\nx-ratelimit-remaining: 0\r\n"),
        "{response}"
    );
    server.abort();
}

#[tokio::test]
async fn unpolled_response_charges_an_immediate_decision() {
    let layer = RateLimitLayer::new(Quota::per_day(10), LocalStore::new());
    drop(layer.layer(service_fn(hello)).call(request("alice")));
    assert_eq!(peek_remaining(&layer).await, 9);
}
