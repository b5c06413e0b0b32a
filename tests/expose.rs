//! The option `expose` of a layer, and axum's extractor of the decision.

mod support;

use std::convert::Infallible;

use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use http::request::Parts;
use http::{Extensions, Response, StatusCode};
use http_body_util::BodyExt;
use tollgate::test_util::{ManualClock, ProgrammableStore};
use tollgate::{
    Charge, Decision, Expose, Identity, IpNet, Limits, LimitsFor, LocalStore, PeerAddr, Policy,
    Quota, RateLimitLayer,
};
use tower::{Layer, ServiceExt, service_fn};

use support::{Request, request, send, stores, text};

const BOTH: Expose = Expose::new().decision().identity();

/// Describes what a layer has inserted.
fn describe(extensions: &Extensions) -> String {
    let identity = extensions.get::<Identity>().map(Identity::to_string);
    let decision = extensions.get::<Decision<'static>>().map(|decision| {
        let policies: Vec<_> = decision
            .policies()
            .map(|(policy, status)| format!("{} {}", policy.name(), status.remaining()))
            .collect();
        format!("{} {}", decision.is_allowed(), policies.join(" "))
    });
    let none = || "none".to_owned();
    format!(
        "{}, {}",
        identity.unwrap_or_else(none),
        decision.unwrap_or_else(none)
    )
}

/// Returns what the layer inserted into the request and into the response.
async fn exposed(layer: &RateLimitLayer, request: Request) -> [String; 2] {
    let inner = service_fn(async |request: Request| {
        Ok::<_, Infallible>(Response::new(describe(request.extensions())))
    });
    let Ok(response) = layer.layer(inner).oneshot(request).await;
    let in_response = describe(response.extensions());
    [text(response).await, in_response]
}

fn limits() -> Limits {
    let policies = [
        Policy::new("few", Quota::per_day(1)),
        Policy::new("many", Quota::per_day(9)),
    ];
    Limits::new(policies).unwrap()
}

#[tokio::test(start_paused = true)]
async fn handlers_see_what_is_exposed() {
    for store in stores() {
        let layer = RateLimitLayer::new(limits(), store).shadow(true);
        let exposing = |expose| layer.clone().expose(expose);
        for (user, layer, in_request, in_response) in [
            ("a", layer.clone(), "none, none", "none, none"),
            (
                "b",
                exposing(BOTH),
                "user:b, true few 0 many 8",
                "none, none",
            ),
            (
                "b",
                exposing(BOTH),
                "user:b, false few 0 many 8",
                "none, none",
            ),
            (
                "c",
                exposing(Expose::new().identity()),
                "user:c, none",
                "none, none",
            ),
            (
                "d",
                exposing(Expose::new().decision()).shadow(false),
                "none, true few 0 many 8",
                "none, none",
            ),
            (
                "e",
                exposing(BOTH.in_response()),
                "user:e, true few 0 many 8",
                "user:e, true few 0 many 8",
            ),
        ] {
            let actual = exposed(&layer, request(user)).await;
            assert_eq!(actual, [in_request, in_response], "{user}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rejection_has_what_is_exposed_in_responses() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(1), store);
        send(&layer, request("alice")).await;
        for (expose, expected) in [
            (BOTH, "none, none"),
            (BOTH.in_response(), "user:alice, false default 0"),
        ] {
            let layer = layer.clone().expose(expose);
            let rejected = send(&layer, request("alice")).await;
            assert_eq!(rejected.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(describe(rejected.extensions()), expected);
        }
    }
}

#[tokio::test]
async fn exempt_request_has_a_decision() {
    let layer = RateLimitLayer::new(limits(), ProgrammableStore::new()).expose(BOTH.in_response());
    let networks: [IpNet; 1] = ["10.8.0.0/16".parse().unwrap()];
    let mut internal = request("alice");
    let peer = PeerAddr("10.8.1.2:443".parse().unwrap());
    internal.extensions_mut().insert(peer);
    let full = "true few 1 many 9";
    for (kind, layer, identity) in [
        ("skipped", layer.clone().skip(|_| true), "none"),
        (
            "network",
            layer.clone().exempt_networks(networks).unwrap(),
            "none",
        ),
        ("exempt", layer.clone().exempt(|_| true), "user:alice"),
        (
            "unlimited",
            layer.clone().limits_for(|_, _| LimitsFor::Unlimited),
            "user:alice",
        ),
    ] {
        let expected = format!("{identity}, {full}");
        let actual = exposed(&layer, internal.clone()).await;
        assert_eq!(actual, [expected.clone(), expected], "{kind}");
    }
    let in_shadow = layer.shadow(true);
    let expected = format!("none, {full}");
    let actual = exposed(&in_shadow, Request::default()).await;
    assert_eq!(actual, [expected.clone(), expected], "unidentified");
}

#[tokio::test]
async fn inner_layer_wins() {
    let layer = |limit| {
        let clock = ManualClock::new();
        RateLimitLayer::new(Quota::per_day(limit), LocalStore::new().clock(clock))
            .expose(BOTH.in_response())
    };
    let everyone = |_: &http::request::Parts| Ok(Identity::user("everyone"));
    for (inner, outer, expected) in [
        (
            layer(3),
            layer(9).identify_by(everyone),
            "user:alice, true default 2",
        ),
        (
            layer(9),
            layer(3).identify_by(everyone),
            "user:alice, true default 8",
        ),
    ] {
        let handler = service_fn(async |request: Request| {
            Ok::<_, Infallible>(Response::new(describe(request.extensions())))
        });
        let service = outer.layer(inner.layer(handler));
        let response = service.oneshot(request("alice")).await.unwrap();
        assert_eq!(describe(response.extensions()), expected);
        assert_eq!(text(response).await, expected);
    }
}

async fn remaining(decision: Decision<'static>, Extension(user): Extension<Identity>) -> String {
    format!("{} for {user}", decision.remaining())
}

async fn optional(decision: Option<Decision<'static>>) -> String {
    decision.is_some().to_string()
}

/// Returns the answers of handlers that extract a decision, and an optional one.
async fn extracted(layer: RateLimitLayer) -> [(StatusCode, String); 2] {
    let router = Router::new()
        .route("/remaining", get(remaining))
        .route("/optional", get(optional))
        .layer(layer);
    let answer = async |path: &str| {
        let mut request = request("alice").map(|_| Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        (response.status(), text(response).await)
    };
    [answer("/remaining").await, answer("/optional").await]
}

#[tokio::test]
async fn axum_handlers_extract_the_decision() {
    let layer = RateLimitLayer::new(Quota::per_day(5), ProgrammableStore::new());
    let [remaining, optional] = extracted(layer.clone().expose(BOTH)).await;
    assert_eq!(remaining, (StatusCode::OK, "4 for user:alice".into()));
    assert_eq!(optional, (StatusCode::OK, "true".into()));

    let [(status, text), optional] = extracted(layer).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        text.contains("call `.expose(Expose::new().decision())`"),
        "{text}"
    );
    assert_eq!(optional, (StatusCode::OK, "false".into()));
}

#[tokio::test]
async fn axum_handlers_extract_the_charge() {
    async fn settle(charge: Charge) -> String {
        charge.settle(1);
        format!("{} of {}", charge.used(), charge.cost())
    }
    let layer = RateLimitLayer::new(Quota::per_day(5), LocalStore::with_capacity(8))
        .identify_by(|_: &Parts| Ok(Identity::user("alice")))
        .skip(|parts: &Parts| parts.uri.path() == "/skipped")
        .cost_for(|_| 3);
    let send = |layer: RateLimitLayer, path: &'static str| async move {
        let app = Router::new()
            .route("/", get(settle))
            .route("/skipped", get(settle));
        let request = http::Request::get(path)
            .body(Body::empty())
            .expect("a request");
        let Ok(response) = app.layer(layer).oneshot(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body");
        (
            status,
            String::from_utf8(body.to_bytes().into()).expect("text"),
        )
    };
    let exposing = layer.clone().expose(Expose::new().charge());
    for _ in 0..3 {
        let answer = send(exposing.clone(), "/").await;
        assert_eq!(answer, (StatusCode::OK, "1 of 3".into()));
    }
    let answer = send(exposing, "/skipped").await;
    assert_eq!(answer, (StatusCode::OK, "0 of 0".into()));
    let (status, text) = send(layer, "/").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        text.contains("call `.expose(Expose::new().charge())`"),
        "{text}"
    );
}
