//! The crate logs each change of state once, and nothing per request.

#[path = "support/log.rs"]
mod log;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::sleep;
#[cfg(feature = "redis")]
use tollgate::RedisStore;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{
    Check, Identity, Limiter, Limits, LocalStore, Quota, RateLimitLayer, StoreErrorKind,
};
use tower::{Layer, ServiceExt};

use log::{logged, record};

#[tokio::test(start_paused = true)]
async fn outage_is_logged_as_two_lines() {
    record();
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(10)));
    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    for _ in 0..100 {
        limiter.check(&Check::new(&alice, &limits)).await;
        sleep(Duration::from_millis(20)).await;
    }
    let lines = logged("store=\"programmable\"");
    let [opened] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        opened.starts_with("WARN ") && opened.contains("circuit breaker opened"),
        "{opened}"
    );
    assert!(opened.contains("the store cannot be reached"), "{opened}");

    store.behave(Behavior::Answer);
    sleep(Duration::from_secs(2)).await;
    let lines = logged("store=\"programmable\"");
    let [_, closed] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        closed.starts_with("INFO ") && closed.contains("circuit breaker closed"),
        "{closed}"
    );
    assert!(logged("alice").is_empty(), "no line contains an identity");
}

#[test]
fn layers_that_share_a_count_warn_once() {
    record();
    let limiter = Limiter::from(LocalStore::new());
    let layer = |scope: &str, limit| {
        RateLimitLayer::new(Quota::per_day(limit), limiter.clone()).scope(scope)
    };
    let wrap = |layer: &RateLimitLayer| drop(layer.layer(()));

    // One layer on many services, other scopes, other quotas, and an equal layer that replaces a
    // dropped one share nothing.
    let shared = layer("shared", 10);
    for _ in 0..10 {
        wrap(&shared);
        wrap(&shared.clone());
    }
    wrap(&layer("other", 10));
    wrap(&layer("shared", 11));
    wrap(&layer("other", 10));
    assert_eq!(logged("scope=\"shared\""), [""; 0]);
    assert_eq!(logged("scope=\"other\""), [""; 0]);

    for _ in 0..10 {
        wrap(&layer("shared", 10));
    }
    let lines = logged("scope=\"shared\"");
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("WARN ") && line.contains("policy=\"shared\""),
        "{line}"
    );
}

#[test]
fn layers_behind_two_limiters_warn_of_a_shared_count() {
    record();
    let store = Arc::new(LocalStore::new());
    let layer = |store: Arc<LocalStore>| {
        RateLimitLayer::new(Quota::per_day(10), Limiter::from(store)).scope("two-limiters")
    };
    let first = layer(store.clone());
    drop(first.layer(()));
    drop(layer(Arc::default()).layer(()));
    assert_eq!(logged("scope=\"two-limiters\""), [""; 0], "another store");
    drop(layer(store).layer(()));
    assert_eq!(logged("scope=\"two-limiters\"").len(), 1);
}

#[tokio::test]
async fn layer_that_charges_a_request_twice_warns_once() {
    record();
    let inner = tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let layer = |scope: &str| {
        RateLimitLayer::new(Quota::per_day(10), LocalStore::new())
            .scope(scope)
            .identify_by(|_: &Parts| Ok(Identity::user("alice")))
    };
    let (twice, once) = (layer("charges-twice"), layer("charges-once"));
    let service = twice.layer(once.layer(twice.layer(inner)));
    for left in ["8", "6"] {
        let response = service.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.headers()["x-ratelimit-remaining"], left);
    }
    let warnings = usize::from(cfg!(debug_assertions));
    assert_eq!(logged("scope=\"charges-twice\"").len(), warnings);
    assert_eq!(logged("scope=\"charges-once\""), [""; 0]);
}

/// No server listens on the port of the URL, which has a password.
#[cfg(feature = "redis")]
#[tokio::test]
async fn first_line_names_the_address_and_the_cause() {
    record();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let store = RedisStore::new(&format!("redis://user:open-sesame-7@{address}")).unwrap();
    let error = store.ping().await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with(&address.to_string()), "{cause}");
    assert!(cause.contains("onnection refused"), "{cause}");

    let limiter = Limiter::from(store);
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(10)));
    for _ in 0..20 {
        limiter.check(&Check::new(&alice, &limits)).await;
    }
    let lines = logged(&address.to_string());
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(line.contains("circuit breaker opened"), "{line}");
    assert!(line.contains(&format!("lane=\"{address}\"")), "{line}");
    assert!(line.contains("onnection refused"), "{line}");
    assert_eq!(logged("open-sesame"), [""; 0]);
}
