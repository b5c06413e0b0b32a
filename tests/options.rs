//! The options `skip`, `cost_for`, `limits_for`, `scope` and `shadow` of a layer,
//! whether the store answers at once or later.

mod support;

use http::request::Parts;
use http::{Response, StatusCode};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{
    FailureStrategy, Identity, Limits, LocalStore, Policy, Quota, RateLimitLayer, Scope,
    StoreErrorKind,
};

use support::{Request, header, request, send, stores, text};

/// Returns a request of `alice` to this path.
fn request_to(path: &str) -> Request {
    let mut request = request("alice");
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// Sends a request of `alice` to this path. Returns the status and `X-RateLimit-Remaining`.
async fn get(layer: &RateLimitLayer, path: &str) -> (u16, Option<u32>) {
    let response = send(layer, request_to(path)).await;
    let remaining = header(&response, "x-ratelimit-remaining");
    (
        response.status().as_u16(),
        remaining.map(|remaining| remaining.parse().unwrap()),
    )
}

#[tokio::test(start_paused = true)]
async fn skipped_request_is_not_limited() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(2), store.clone())
            .failure_strategy(FailureStrategy::Closed)
            .skip(|parts| parts.uri.path() == "/health");
        let skipped = async |mut request: Request| {
            *request.uri_mut() = "/health".parse().unwrap();
            let calls = store.calls();
            let response = send(&layer, request).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.headers().is_empty(), "{:?}", response.headers());
            assert_eq!(text(response).await, "hello");
            assert_eq!(store.calls(), calls);
        };
        assert_eq!(get(&layer, "/").await, (200, Some(1)));
        skipped(request("alice")).await;
        assert_eq!(get(&layer, "/").await, (200, Some(0)));
        assert_eq!(get(&layer, "/").await, (429, Some(0)));
        skipped(request("alice")).await;

        // A skipped request needs no identity, and its store may fail or hang.
        skipped(Request::default()).await;
        store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
        skipped(request("alice")).await;
        store.behave(Behavior::Hang);
        skipped(request("alice")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cost_for_sets_the_cost_of_a_request() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(10), store)
            .cost_for(|parts: &Parts| parts.uri.path()[1..].parse().unwrap());
        for (cost, answer) in [
            ("/0", (200, Some(10))),
            ("/1", (200, Some(9))),
            ("/5", (200, Some(4))),
            ("/5", (429, Some(4))),
            ("/11", (429, Some(4))),
            ("/4294967295", (429, Some(4))),
            ("/4", (200, Some(0))),
            ("/1", (429, Some(0))),
            ("/0", (200, Some(0))),
        ] {
            assert_eq!(get(&layer, cost).await, answer, "{cost}");
        }
        let has_retry_after = async |path| {
            let denied = send(&layer, request_to(path)).await;
            header(&denied, "retry-after").is_some()
        };
        assert!(has_retry_after("/10").await);
        assert!(
            !has_retry_after("/11").await,
            "a cost above the capacity never fits"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn limits_for_sets_the_limits_of_a_request() {
    for store in stores() {
        let gold = Limits::new([
            Policy::new("gold", Quota::per_day(100)),
            Policy::new("burst", Quota::per_hour(50)),
        ]);
        let gold = gold.unwrap();
        let layer = RateLimitLayer::new(Quota::per_day(2), store).limits_for(
            move |parts: &Parts, identity: &Identity| {
                assert_eq!(identity, &Identity::user("alice"));
                (parts.uri.path() == "/gold").then(|| gold.clone())
            },
        );
        assert_eq!(get(&layer, "/").await, (200, Some(1)));
        assert_eq!(get(&layer, "/gold").await, (200, Some(49)));
        assert_eq!(get(&layer, "/").await, (200, Some(0)));
        assert_eq!(get(&layer, "/").await, (429, Some(0)));
        for left in (0..49).rev() {
            assert_eq!(get(&layer, "/gold").await, (200, Some(left)));
        }
        assert_eq!(get(&layer, "/gold").await, (429, Some(0)));
    }
}

#[tokio::test(start_paused = true)]
async fn layers_of_different_scopes_share_nothing() {
    let hanging = ProgrammableStore::new();
    hanging.behave(Behavior::Hang);
    for store in stores().into_iter().chain([hanging]) {
        let limiter = tollgate::Limiter::from(store);
        let layer = RateLimitLayer::new(Quota::per_day(1), limiter);
        for layer in [
            layer.clone(),
            layer.clone().scope("login"),
            layer.in_scope(Scope::new("api.v1").unwrap()),
        ] {
            assert_eq!(get(&layer, "/").await, (200, Some(0)));
            assert_eq!(get(&layer, "/").await, (429, Some(0)));
        }
    }
}

#[test]
#[should_panic(expected = "`bad name!` cannot be the name of a scope")]
fn invalid_scope_name_panics() {
    let _ = RateLimitLayer::new(Quota::per_day(1), LocalStore::new()).scope("bad name!");
}

#[tokio::test(start_paused = true)]
async fn shadow_layer_rejects_nothing() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(2), store.clone())
            .failure_strategy(FailureStrategy::Closed)
            .on_reject(|_| -> Response<String> { panic!("a shadow layer rejects nothing") })
            .cost_for(|parts| if parts.uri.path() == "/huge" { 3 } else { 1 })
            .shadow(true);
        let flags = async |request| {
            let response = send(&layer, request).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(header(&response, "retry-after"), None);
            let shadow = header(&response, "x-ratelimit-shadow").map(str::to_owned);
            let degraded = header(&response, "x-ratelimit-degraded").map(str::to_owned);
            assert_eq!(text(response).await, "hello");
            [shadow, degraded].map(|value| match value.as_deref() {
                None => false,
                Some("true") => true,
                Some(other) => panic!("{other}"),
            })
        };
        for expected in [false, false, true, true] {
            assert_eq!(flags(request_to("/")).await, [expected, false]);
        }
        assert_eq!(flags(request("bob")).await, [false, false]);
        let mut huge = request("carol");
        *huge.uri_mut() = "/huge".parse().unwrap();
        assert_eq!(flags(huge).await, [true, false]);

        // Requests without an identity and with a failing store are allowed too.
        assert_eq!(flags(Request::default()).await, [true, false]);
        store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
        assert_eq!(flags(request("dave")).await, [true, true]);
    }
}

#[tokio::test(start_paused = true)]
async fn shadow_layer_charges_only_allowed_requests() {
    for store in stores() {
        let limiter = tollgate::Limiter::from(store);
        let layer = RateLimitLayer::new(Quota::per_day(10), limiter)
            .cost_for(|parts| if parts.uri.path() == "/6" { 6 } else { 1 });
        let shadow = layer.clone().shadow(true);
        assert_eq!(get(&shadow, "/6").await, (200, Some(4)));
        assert_eq!(get(&shadow, "/6").await, (200, Some(4)));
        assert_eq!(get(&layer, "/").await, (200, Some(3)));
        assert_eq!(get(&shadow.shadow(false), "/6").await, (429, Some(3)));
    }
}
