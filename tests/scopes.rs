//! The options `scope`, `scope_for` and `scope_by_route` of a layer, and the names that clients see.

#[path = "support/log.rs"]
mod log;
mod support;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use tollgate::test_util::ProgrammableStore;
use tollgate::{
    Check, Identity, Limiter, Limits, LocalStore, Policy, Quota, RateLimitLayer, ResponseHeaders,
    Scope,
};
use tower::ServiceExt;

use log::{logged, record};
use support::{Request, header, request, send, stores, text};

/// Returns a request of `alice` that chooses a scope.
fn request_in(scope: &str) -> Request {
    let mut request = request("alice");
    let scope = scope.parse().unwrap();
    request.headers_mut().insert("scope", scope);
    request
}

/// Returns a layer whose requests choose a scope by a header.
fn layer_by_header(quota: Quota, store: impl Into<Limiter>) -> RateLimitLayer {
    RateLimitLayer::new(quota, store).scope_for(|parts| parts.headers.get("scope")?.to_str().ok())
}

async fn remaining(layer: &RateLimitLayer, request: Request) -> u32 {
    let response = send(layer, request).await;
    header(&response, "x-ratelimit-remaining")
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_of_different_scopes_share_nothing() {
    for store in stores() {
        let layer = layer_by_header(Quota::per_day(9), store).scope("layer");
        assert_eq!(remaining(&layer, request_in("a")).await, 8);
        assert_eq!(remaining(&layer, request_in("b")).await, 8);
        assert_eq!(remaining(&layer, request("alice")).await, 8);
        assert_eq!(remaining(&layer, request_in("a")).await, 7);
        assert_eq!(remaining(&layer, request_in("layer")).await, 7);
    }
}

#[tokio::test]
async fn scope_for_counts_in_the_named_scope() {
    let limiter = Limiter::from(LocalStore::new());
    let layer = layer_by_header(Quota::per_day(9), limiter.clone());
    send(&layer, request_in("acme")).await;
    // A check without the layer reaches the count by the same quota, although the layer shows another name.
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(9)));
    let scope = Scope::new("acme").unwrap();
    let check = Check::new(&alice, &limits).scope(&scope);
    assert_eq!(limiter.check(&check).await.remaining(), 7);
}

#[tokio::test]
async fn invalid_scope_name_counts_in_the_layers_scope() {
    record();
    let layer = layer_by_header(Quota::per_day(9), ProgrammableStore::new()).scope("invalid-names");
    for (name, left) in [("two words", 8), ("", 7), ("invalid-names", 6)] {
        assert_eq!(remaining(&layer, request_in(name)).await, left);
    }
    let lines = logged("scope=\"invalid-names\"");
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("WARN ") && line.contains("`two words`"),
        "{line}"
    );
}

#[tokio::test]
async fn scopes_beyond_1000_share_the_layers_scope() {
    record();
    let layer = layer_by_header(Quota::per_day(9), ProgrammableStore::new()).scope("many-names");
    for index in 0..1_000 {
        assert_eq!(remaining(&layer, request_in(&format!("s{index}"))).await, 8);
    }
    assert_eq!(logged("scope=\"many-names\""), [""; 0]);
    for (name, left) in [("more", 8), ("still-more", 7), ("s0", 7), ("s999", 7)] {
        assert_eq!(remaining(&layer, request_in(name)).await, left, "{name}");
    }
    let lines = logged("scope=\"many-names\"");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn single_quota_is_shown_by_its_scope() {
    let headers = ResponseHeaders::ietf();
    let named = Limits::new([Policy::new("daily", Quota::per_day(1))]).unwrap();
    let store = ProgrammableStore::new;
    let layer = layer_by_header(Quota::per_day(1), store()).headers(headers);
    let of_named = RateLimitLayer::new(named, store()).headers(headers);
    for (layer, request, name) in [
        (layer.clone(), request("alice"), "default"),
        (layer.clone().scope("login"), request("alice"), "login"),
        (layer.clone().scope("a").scope("b"), request("alice"), "b"),
        (
            layer.clone().scope("a").scope("default"),
            request("alice"),
            "default",
        ),
        (layer.scope("login"), request_in("acme"), "acme"),
        (of_named.scope("login"), request("alice"), "daily"),
    ] {
        let allowed = send(&layer, request.clone()).await;
        let policies = header(&allowed, "ratelimit-policy").unwrap();
        assert!(
            policies.starts_with(&format!("\"{name}\";")),
            "{name}: {policies}"
        );
        let denied = text(send(&layer, request).await).await;
        let violated = format!("\"violated-policies\":[\"{name}\"]");
        assert!(denied.contains(&violated), "{name}: {denied}");
    }
}

#[tokio::test]
async fn routes_have_scopes_of_their_own() {
    let layer = RateLimitLayer::new(Quota::per_day(9), ProgrammableStore::new())
        .headers(ResponseHeaders::ietf())
        .scope_by_route();
    let hello = || get(async || "hello");
    let api = Router::new().route("/users/{id}", hello());
    let app = Router::new()
        .route("/search", hello())
        .nest("/api", api)
        .layer(layer);
    for (path, limit) in [
        ("/search", "\"search\";r=8"),
        ("/api/users/1", "\"api.users.-id-\";r=8"),
        ("/api/users/2", "\"api.users.-id-\";r=7"),
        ("/search", "\"search\";r=7"),
        ("/unknown", "\"default\";r=8"),
        ("/api/unknown", "\"default\";r=7"),
    ] {
        let mut request = request("alice").map(|_| Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let actual = header(&response, "ratelimit").unwrap();
        assert!(actual.starts_with(limit), "{path}: {actual}");
    }
}
