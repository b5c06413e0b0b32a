//! Every response has correct rate limit headers. A rejection has the form of the client's
//! protocol, HTTP or gRPC, and reveals nothing internal.

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{
    FailureStrategy, IdentifyError, Identity, Limits, LocalStore, Policy, Quota, RateLimitLayer,
    Rejection, RejectionReason, ResponseBody, ResponseHeaders, StoreErrorKind, UserId,
    header as names,
};

use support::{Request, TestError, grpc_call, header, request, send, stores, text};

type Answer = Response<ResponseBody<Body>>;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a store and its clock, which stands still unless it is set.
fn store_with_clock() -> (LocalStore, ManualClock) {
    let clock = ManualClock::new();
    (LocalStore::new().clock(clock.clone()), clock)
}

fn limits<const N: usize>(policies: [(&str, Quota); N]) -> Limits {
    Limits::new(policies.map(|(name, quota)| Policy::new(name, quota))).unwrap()
}

/// Returns a layer that reads the cost of a request from its `cost` header.
fn layer_with_costs(limits: impl Into<Limits>, store: LocalStore) -> RateLimitLayer {
    RateLimitLayer::new(limits, store).cost_for(|parts| {
        let cost = parts.headers.get("cost").map(|cost| cost.to_str().unwrap());
        cost.map_or(1, |cost| cost.parse().unwrap())
    })
}

/// Sends a request of `alice` with this cost.
async fn spend(layer: &RateLimitLayer, cost: u32) -> Answer {
    let mut request = request("alice");
    request.headers_mut().insert("cost", cost.into());
    send(layer, request).await
}

/// Returns the headers that the layer has added, sorted by name, without `Content-Type`. No inner
/// service here sets any.
fn added(response: &Answer) -> Vec<(&str, &str)> {
    let names = response.headers().keys();
    let mut added: Vec<_> = names
        .filter(|name| *name != CONTENT_TYPE)
        .map(|name| (name.as_str(), header(response, name.as_str()).unwrap()))
        .collect();
    added.sort_unstable();
    added
}

#[tokio::test]
async fn allowed_and_denied_responses_have_rate_limit_headers() {
    let (store, _) = store_with_clock();
    // One token per 1.5 seconds.
    let quota = Quota::token_bucket(2, 3 * SECOND);
    let layer = layer_with_costs(quota, store);
    let rate = |remaining, reset| {
        [
            ("x-ratelimit-limit", "2"),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", reset),
        ]
    };

    assert_eq!(added(&spend(&layer, 0).await), rate("2", "0"));
    assert_eq!(added(&spend(&layer, 1).await), rate("1", "2"));
    assert_eq!(added(&spend(&layer, 1).await), rate("0", "3"));

    let denied = spend(&layer, 1).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    let denial = [("cache-control", "no-store"), ("retry-after", "2")];
    assert_eq!(added(&denied), [&denial[..], &rate("0", "3")].concat());

    // A cost above the capacity never fits.
    let never = spend(&layer, 3).await;
    assert_eq!(never.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(added(&never), [&denial[..1], &rate("0", "3")].concat());
}

#[tokio::test]
async fn waits_are_rounded_up_to_whole_seconds() {
    let (store, clock) = store_with_clock();
    let layer = RateLimitLayer::new(Quota::token_bucket(1, 2 * SECOND), store);
    send(&layer, request("alice")).await;
    for (passed, expected) in [(0, "2"), (999_999, "2"), (1, "1"), (1, "1"), (999_998, "1")] {
        clock.advance(Duration::from_micros(passed));
        let denied = send(&layer, request("alice")).await;
        assert_eq!(header(&denied, "retry-after"), Some(expected));
        assert_eq!(header(&denied, "x-ratelimit-reset"), Some(expected));
    }
    clock.advance(Duration::from_micros(1));
    assert_eq!(send(&layer, request("alice")).await.status(), 200);
}

#[tokio::test]
async fn reset_header_can_be_a_unix_time() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (store, _) = store_with_clock();
    let layer = RateLimitLayer::new(Quota::per_hour(1), store)
        .headers(ResponseHeaders::x_rate_limit().reset_as_unix_time());
    for status in [200, 429] {
        let earliest = now().as_secs() + 3_600;
        let response = send(&layer, request("alice")).await;
        let latest = now().as_secs() + 3_601;
        assert_eq!(response.status(), status);
        let reset = header(&response, "x-ratelimit-reset").unwrap();
        let reset: u64 = reset.parse().unwrap();
        assert!((earliest..=latest).contains(&reset), "{reset}");
    }
}

#[tokio::test]
async fn ietf_headers_follow_the_draft() {
    let (store, _) = store_with_clock();
    let limits = limits([
        ("burst", Quota::per_second(10)),
        ("daily", Quota::per_day(10_000)),
    ]);
    let layer = layer_with_costs(limits, store).headers(ResponseHeaders::x_rate_limit().and_ietf());
    let policies = r#""burst";q=10;w=1, "daily";q=10000;w=86400"#;

    let response = spend(&layer, 1).await;
    assert_eq!(header(&response, "ratelimit-policy"), Some(policies));
    assert_eq!(header(&response, "ratelimit"), Some(r#""burst";r=9;t=1"#));
    assert_eq!(header(&response, "x-ratelimit-remaining"), Some("9"));

    spend(&layer, 9).await;
    let denied = spend(&layer, 1).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&denied, "ratelimit-policy"), Some(policies));
    assert_eq!(header(&denied, "ratelimit"), Some(r#""burst";r=0;t=1"#));
}

#[tokio::test]
async fn headers_describe_the_policy_with_least_remaining() {
    let (store, _) = store_with_clock();
    let limits = limits([
        ("burst", Quota::per_second(10)),
        ("daily", Quota::per_day(3)),
    ]);
    let layer = layer_with_costs(limits, store).headers(ResponseHeaders::x_rate_limit().and_ietf());
    for (status, [remaining, reset], limit) in [
        (200, ["2", "28800"], r#""daily";r=2;t=28800"#),
        (200, ["1", "57600"], r#""daily";r=1;t=57600"#),
        (200, ["0", "86400"], r#""daily";r=0;t=86400"#),
        (429, ["0", "86400"], r#""daily";r=0;t=28800"#),
    ] {
        let response = spend(&layer, 1).await;
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "x-ratelimit-limit"), Some("3"));
        assert_eq!(header(&response, "x-ratelimit-remaining"), Some(remaining));
        assert_eq!(header(&response, "x-ratelimit-reset"), Some(reset));
        assert_eq!(header(&response, "ratelimit"), Some(limit));
    }
}

#[tokio::test]
async fn ietf_window_of_fractional_seconds_is_omitted() {
    let window = Duration::from_millis(1_500);
    for (quota, policy, limit) in [
        (
            Quota::per_second(5).burst(10),
            r#""default";q=10;w=2"#,
            r#""default";r=9;t=1"#,
        ),
        (
            Quota::per_second(3).burst(2),
            r#""default";q=2"#,
            r#""default";r=1;t=1"#,
        ),
        (
            Quota::fixed_window(3, window),
            r#""default";q=3"#,
            r#""default";r=2;t=2"#,
        ),
        (
            Quota::sliding_window(3, 2 * window),
            r#""default";q=3;w=3"#,
            r#""default";r=2;t=6"#,
        ),
    ] {
        let (store, clock) = store_with_clock();
        // A multiple of all these window lengths.
        clock.set(1_700_000_001_000_000 / 3_000_000 * 3_000_000);
        let layer = RateLimitLayer::new(quota, store).headers(ResponseHeaders::ietf());
        let response = send(&layer, request("alice")).await;
        let expected = [("ratelimit", limit), ("ratelimit-policy", policy)];
        assert_eq!(added(&response), expected, "{quota}");
    }
}

#[tokio::test]
async fn rejection_without_headers_keeps_retry_after() {
    let (store, _) = store_with_clock();
    let layer = RateLimitLayer::new(Quota::per_minute(1), store).headers(ResponseHeaders::none());
    assert_eq!(added(&send(&layer, request("alice")).await), []);
    assert_eq!(
        added(&send(&layer, request("alice")).await),
        [("cache-control", "no-store"), ("retry-after", "60")]
    );
}

#[tokio::test]
async fn every_added_header_is_in_the_exposed_list() {
    let [_, store] = stores();
    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let layer = RateLimitLayer::new(Quota::per_minute(1), store)
        .headers(ResponseHeaders::x_rate_limit().and_ietf());
    let shadow = layer.clone().shadow(true);
    let plain = request("alice");
    let grpc = grpc("application/grpc");
    for (layer, request) in [
        (&layer, &plain),
        (&layer, &plain),
        (&layer, &grpc),
        (&shadow, &plain),
    ] {
        let response = send(layer, request.clone()).await;
        for (name, _) in added(&response) {
            let name: HeaderName = name.parse().unwrap();
            assert!(
                names::exposed().contains(&name) || name == CACHE_CONTROL,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn rejection_body_is_problem_json() {
    let (store, _) = store_with_clock();
    let limits = limits([
        ("once", Quota::per_minute(1)),
        ("often", Quota::per_minute(9)),
        ("once-a.DAY_", Quota::per_day(1)),
    ]);
    let layer = layer_with_costs(limits, store);
    spend(&layer, 1).await;

    let title = "Request cannot be satisfied as assigned quota has been exceeded";
    for (cost, violated) in [
        (1, json!(["once", "once-a.DAY_"])),
        (10, json!(["once", "often", "once-a.DAY_"])),
    ] {
        let denied = spend(&layer, cost).await;
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
        let content_type = header(&denied, "content-type");
        assert_eq!(content_type, Some("application/problem+json"));
        let problem: Value = serde_json::from_str(&text(denied).await).unwrap();
        let expected = json!({
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": title,
            "status": 429,
            "violated-policies": violated,
        });
        assert_eq!(problem, expected);
    }
}

#[tokio::test]
async fn on_reject_replaces_the_response_but_not_headers() {
    let (store, _) = store_with_clock();
    let plain = RateLimitLayer::new(Quota::per_minute(1), store);
    let own = plain.clone().on_reject(|rejection| {
        let RejectionReason::Denied(decision) = rejection.reason() else {
            panic!("{rejection:?}")
        };
        assert!(!decision.is_allowed() && !decision.is_refused());
        assert_eq!(rejection.decision(), Some(decision));
        assert_eq!(rejection.identity(), Some(&Identity::user("alice")));
        let text = format!("not {}", rejection.parts().uri.path());
        let mut response = Response::new(text);
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    });
    let patient = plain.clone().on_reject(|rejection| {
        let mut response = rejection.response();
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("3600"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        headers.insert(names::X_RATELIMIT_REMAINING, HeaderValue::from_static("99"));
        response
    });

    let allowed = send(&own, request("alice")).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(text(allowed).await, "hello");

    let standard = send(&plain, request("alice")).await;
    let response = send(&own, request("alice")).await;
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(added(&response), added(&standard));
    assert_eq!(header(&response, "content-type"), None);
    assert_eq!(header(&response, "content-length"), None);
    assert_eq!(text(response).await, "not /");

    let response = send(&patient, request("alice")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&response, "retry-after"), Some("3600"));
    assert_eq!(header(&response, "cache-control"), Some("private"));
    assert_eq!(header(&response, "x-ratelimit-remaining"), Some("0"));

    assert_eq!(text(response).await, text(standard).await);
}

#[tokio::test(start_paused = true)]
async fn on_reject_knows_reason_and_identity() {
    let describe = |rejection: &Rejection<'_>| {
        let reason = match rejection.reason() {
            RejectionReason::Denied(_) => "denied",
            RejectionReason::Refused(_) => "refused",
            RejectionReason::Unidentified(error) => &error.to_string(),
            _ => panic!("{rejection:?}"),
        };
        let identity = rejection.identity().map(Identity::to_string);
        let status = rejection.status().as_u16();
        Response::new(format!("{status} {reason} {identity:?}"))
    };
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(1), store.clone())
            .failure_strategy(FailureStrategy::Closed)
            .refused_status(StatusCode::SERVICE_UNAVAILABLE)
            .unidentified_status(StatusCode::UNAUTHORIZED)
            .identify_by(|parts: &Parts| match parts.extensions.get::<UserId>() {
                Some(user) => Ok(user.identity().clone()),
                None => Err(IdentifyError::new("no user")),
            })
            .on_reject(describe);
        let answer = async |request| text(send(&layer, request).await).await;
        assert_eq!(answer(request("alice")).await, "hello");
        assert_eq!(
            answer(request("alice")).await,
            r#"429 denied Some("user:alice")"#
        );
        store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
        assert_eq!(
            answer(request("bob")).await,
            r#"503 refused Some("user:bob")"#
        );
        let unidentified = send(&layer, Request::default()).await;
        assert!(unidentified.headers().is_empty());
        assert_eq!(text(unidentified).await, "401 no user None");
        let in_shadow = layer.clone().shadow(true);
        let response = send(&in_shadow, Request::default()).await;
        assert_eq!(text(response).await, "hello");
    }
}

#[tokio::test]
async fn on_reject_gets_the_default_response_to_unidentified() {
    let plain = RateLimitLayer::new(Quota::per_day(1), ProgrammableStore::new());
    let hooked = plain.clone().on_reject(|rejection| {
        assert_eq!(rejection.decision(), None);
        rejection.response()
    });
    for request in [Request::default(), grpc("application/grpc")] {
        let mut request = request;
        request.extensions_mut().clear();
        let expected = send(&plain, request.clone()).await;
        let response = send(&hooked, request).await;
        assert_eq!(response.status(), expected.status());
        assert_eq!(response.headers(), expected.headers());
        assert_eq!(text(response).await, text(expected).await);
    }
}

#[tokio::test]
async fn on_reject_may_return_any_body() {
    let frames = || {
        let frames = ["slow ", "down"].map(|text| Ok(Frame::data(Bytes::from(text))));
        StreamBody::new(stream::iter(frames.into_iter().chain([Err(TestError(7))])))
    };
    let (store, _) = store_with_clock();
    let layer = RateLimitLayer::new(Quota::per_day(1), store);
    send(&layer, request("alice")).await;

    let streamed = layer
        .clone()
        .on_reject(move |_| Response::new(frames().boxed_unsync()));
    let response = send(&streamed, request("alice")).await;
    assert_eq!(header(&response, "x-ratelimit-limit"), Some("1"));
    let mut body = response.into_body();
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), None);
    for text in ["slow ", "down"] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(*error.downcast::<TestError>().unwrap(), TestError(7));
    assert!(body.frame().await.is_none());

    let full = layer.on_reject(|_| Response::new(Body::from("slow down")));
    let response = send(&full, request("alice")).await;
    assert_eq!(response.body().size_hint().exact(), Some(9));
    assert_eq!(text(response).await, "slow down");
}

#[test]
fn response_body_stays_sync() {
    fn assert_sync<T: Send + Sync>() {}
    assert_sync::<ResponseBody<Full<Bytes>>>();
}

fn grpc(content_type: &'static str) -> Request {
    grpc_call(content_type, Method::POST, Version::HTTP_2)
}

/// Asserts that a response is a gRPC trailers-only response. Returns status, message and pushback.
fn trailers_only<'a>(response: &'a Answer, content_type: &str) -> [Option<&'a str>; 3] {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(response, "content-type"), Some(content_type));
    assert!(response.body().is_end_stream());
    assert_eq!(response.body().size_hint().exact(), Some(0));
    ["grpc-status", "grpc-message", "grpc-retry-pushback-ms"].map(|name| header(response, name))
}

#[tokio::test]
async fn grpc_denial_is_a_trailers_only_response() {
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "application/grpc-web-text+proto",
    ] {
        let (store, _) = store_with_clock();
        let layer = layer_with_costs(Quota::per_second(3).burst(1), store);
        let first = send(&layer, grpc(content_type)).await;
        assert_eq!(header(&first, "grpc-status"), None);
        assert_eq!(text(first).await, "hello");

        // The wait is 333,333 ⅓ µs, rounded up to milliseconds.
        let denied = send(&layer, grpc(content_type)).await;
        assert_eq!(
            trailers_only(&denied, content_type),
            [Some("8"), Some("rate limit exceeded"), Some("334")]
        );
        assert_eq!(header(&denied, "retry-after"), Some("1"));
        assert_eq!(header(&denied, "x-ratelimit-remaining"), Some("0"));
        assert_eq!(text(denied).await, "");

        let mut never = grpc(content_type);
        never.headers_mut().insert("cost", 2.into());
        let never = send(&layer, never).await;
        assert_eq!(
            trailers_only(&never, content_type),
            [Some("8"), Some("rate limit exceeded"), Some("-1")]
        );
        assert_eq!(header(&never, "retry-after"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_differs_from_a_denial() {
    for (behavior, status, grpc_status, message) in [
        (
            Behavior::Fail(StoreErrorKind::Rejected),
            StatusCode::TOO_MANY_REQUESTS,
            "8",
            "rate limit exceeded",
        ),
        (
            Behavior::Hang,
            StatusCode::SERVICE_UNAVAILABLE,
            "14",
            "the rate limiter is unavailable",
        ),
    ] {
        let store = ProgrammableStore::new();
        let layer = RateLimitLayer::new(Quota::per_minute(2), store.clone())
            .failure_strategy(FailureStrategy::Closed)
            .refused_status(status);
        send(&layer, request("alice")).await;
        store.behave(behavior);

        let refused = send(&layer, request("alice")).await;
        assert_eq!(refused.status(), status);
        assert_eq!(header(&refused, "retry-after"), Some("1"));
        assert_eq!(header(&refused, "cache-control"), Some("no-store"));
        assert_eq!(header(&refused, "x-ratelimit-degraded"), Some("true"));
        assert_eq!(header(&refused, "x-ratelimit-remaining"), Some("0"));
        let content_type = header(&refused, "content-type");
        assert_eq!(content_type, Some("application/problem+json"));
        let problem: Value = serde_json::from_str(&text(refused).await).unwrap();
        let expected = json!({
            "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
            "title":
                "Request cannot be satisfied due to temporary server capacity constraints",
            "status": status.as_u16(),
        });
        assert_eq!(problem, expected);

        let refused = send(&layer, grpc("application/grpc")).await;
        assert_eq!(
            trailers_only(&refused, "application/grpc"),
            [Some(grpc_status), Some(message), Some("1000")]
        );
        assert_eq!(header(&refused, "x-ratelimit-degraded"), Some("true"));

        // A denial keeps its status, whatever the status of refusals.
        store.behave(Behavior::Answer);
        send(&layer, request("alice")).await;
        let denied = send(&layer, request("alice")).await;
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(&denied, "x-ratelimit-degraded"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn no_response_reveals_the_store_error() {
    use StoreErrorKind::{Overloaded, Rejected, TimedOut, Unavailable, Unusable};

    for kind in [Unavailable, TimedOut, Rejected, Overloaded, Unusable] {
        let error = tollgate::StoreError::from(kind).to_string();
        for strategy in [
            FailureStrategy::Open,
            FailureStrategy::OpenUnlimited,
            FailureStrategy::Closed,
        ] {
            let store = ProgrammableStore::new();
            store.behave(Behavior::Fail(kind));
            let layer = RateLimitLayer::new(Quota::per_minute(1), store).failure_strategy(strategy);
            for request in [request("alice"), request("alice"), grpc("application/grpc")] {
                let response = send(&layer, request).await;
                assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
                assert!(!response.status().is_server_error());
                let headers = format!("{:?}", response.headers());
                let shown = format!("{headers} {}", text(response).await);
                for secret in [error.as_str(), "programmable", "alice"] {
                    assert!(!shown.contains(secret), "{secret}: {shown}");
                }
            }
        }
    }
}

/// Generates quotas of every algorithm.
fn quota() -> impl Strategy<Value = Quota> {
    let period = (1..90_000u64).prop_map(Duration::from_millis);
    (0..3, 1..60u32, period, 1..60u32).prop_map(|(algorithm, limit, period, burst)| match algorithm
    {
        0 => Quota::token_bucket(limit, period).burst(burst),
        1 => Quota::sliding_window(limit, period),
        _ => Quota::fixed_window(limit, period),
    })
}

/// Returns the value of a numeric header, or `None` if it is absent.
fn number(response: &Answer, name: &str) -> Option<u64> {
    let value = header(response, name)?;
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    assert!(digits && !value.is_empty(), "{name}: {value}");
    Some(value.parse().unwrap())
}

proptest! {
    #[test]
    fn header_values_are_consistent_and_come_true(
        quotas in vec(quota(), 1..4),
        requests in vec((0..20_000_000u64, 0..70u32), 1..40),
    ) {
        let policies = quotas.iter().enumerate();
        let policies = policies.map(|(index, quota)| Policy::new(format!("p{index}"), *quota));
        let limits = Limits::new(policies).unwrap();
        let capacity = quotas.iter().map(Quota::capacity).min().unwrap();
        let (store, clock) = store_with_clock();
        let layer = layer_with_costs(limits, store).headers(ResponseHeaders::x_rate_limit().and_ietf());
        let spend = |cost| spend(&layer, cost).now_or_never().expect("a local store decides at once");

        for (passed, cost) in requests {
            clock.advance(Duration::from_micros(passed));
            let response = spend(cost);
            let [limit, remaining, reset] = ["limit", "remaining", "reset"]
                .map(|name| number(&response, &format!("x-ratelimit-{name}")).unwrap());
            prop_assert!(remaining <= limit);
            prop_assert!(reset > 0 || remaining == limit);
            let wait = number(&response, "retry-after");
            let ietf = header(&response, "ratelimit").unwrap();
            let end = format!(";r={remaining};t={}", wait.unwrap_or(reset));
            prop_assert!(ietf.ends_with(&end), "{} {}", ietf, end);

            if response.status() == StatusCode::OK {
                prop_assert_eq!(wait, None);
                continue;
            }
            prop_assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            prop_assert_eq!(wait.is_none(), cost > capacity);
            if let Some(wait) = wait {
                prop_assert!(wait >= 1);
                clock.advance(Duration::from_secs(wait));
                prop_assert_eq!(spend(cost).status(), StatusCode::OK);
            }
        }

        // After `x-ratelimit-reset` seconds the binding policy has its whole limit.
        let before = spend(0);
        let [limit, reset] = ["limit", "reset"]
            .map(|name| number(&before, &format!("x-ratelimit-{name}")).unwrap());
        clock.advance(Duration::from_secs(reset));
        let after = spend(0);
        if quotas.len() == 1 {
            prop_assert_eq!(number(&after, "x-ratelimit-remaining"), Some(limit));
        }
    }
}

#[tokio::test]
async fn only_grpc_calls_get_grpc_denials() {
    let layer = RateLimitLayer::new(Quota::per_day(1), LocalStore::new());
    send(&layer, request("alice")).await;
    for (content_type, method, version, is_grpc) in [
        ("application/grpc", Method::POST, Version::HTTP_2, true),
        (
            "application/grpc+proto",
            Method::POST,
            Version::HTTP_2,
            true,
        ),
        (
            "application/grpc;charset=utf-8",
            Method::POST,
            Version::HTTP_3,
            true,
        ),
        ("application/grpc-web", Method::POST, Version::HTTP_11, true),
        (
            "application/grpc-web+proto",
            Method::POST,
            Version::HTTP_11,
            true,
        ),
        (
            "application/grpc-web-text+proto",
            Method::POST,
            Version::HTTP_2,
            true,
        ),
        ("application/grpc", Method::POST, Version::HTTP_11, false),
        ("application/grpc", Method::GET, Version::HTTP_2, false),
        ("application/grpc-web", Method::PUT, Version::HTTP_11, false),
        (
            "application/grpc-webby",
            Method::POST,
            Version::HTTP_2,
            false,
        ),
        ("application/grpcs", Method::POST, Version::HTTP_2, false),
        ("application/json", Method::POST, Version::HTTP_2, false),
    ] {
        let call = grpc_call(content_type, method, version);
        let off = layer.clone().grpc_responses(false);
        for (layer, is_grpc) in [(&layer, is_grpc), (&off, false)] {
            let response = send(layer, call.clone()).await;
            let status = if is_grpc { 200 } else { 429 };
            assert_eq!(response.status(), status, "{call:?}");
            assert_eq!(header(&response, "grpc-status").is_some(), is_grpc);
        }
    }
}

/// draft-ietf-httpapi-ratelimit-headers-11, section 6: `Retry-After` must not be earlier than the
/// end of the effective window.
#[tokio::test]
async fn ratelimit_t_is_retry_after_on_a_denial() {
    for (quota, wait) in [
        ("5/1s burst 10", 1),
        ("100/1m", 1),
        ("sliding 5/15m", 1_080),
        ("fixed 5/1h", 3_600),
    ] {
        let (store, clock) = store_with_clock();
        let headers = ResponseHeaders::x_rate_limit().and_ietf();
        let layer = layer_with_costs(quota.parse::<Quota>().unwrap(), store).headers(headers);
        clock.set(1_700_002_800_000_000);
        let capacity = quota.parse::<Quota>().unwrap().capacity();
        assert_eq!(spend(&layer, capacity).await.status(), 200);
        let denied = spend(&layer, 1).await;
        assert_eq!(number(&denied, "retry-after"), Some(wait), "{quota}");
        let ietf = header(&denied, "ratelimit").unwrap();
        assert_eq!(ietf, format!("\"default\";r=0;t={wait}"), "{quota}");
    }
}
