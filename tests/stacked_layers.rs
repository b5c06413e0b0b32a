//! With stacked layers a response carries one set of headers, those of the most restrictive layer,
//! whether it is the outer or the inner one. Layers share a count only if their store, scope,
//! policy name and quota are the same.

mod support;

use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{
    FailureStrategy, Limiter, Limits, LocalStore, Policy, Quota, RateLimitLayer, ResponseBody,
    ResponseHeaders, StoreErrorKind,
};
use tower::{Layer, ServiceExt, service_fn};

use support::{Request, grpc_call, header, hello, request, send, stores};

type Answer = Response<ResponseBody<ResponseBody<Body>>>;

/// Sends a request through both layers to `hello`.
async fn send_through(outer: &RateLimitLayer, inner: &RateLimitLayer, request: Request) -> Answer {
    let service = outer.layer(inner.layer(service_fn(hello)));
    let Ok(response) = service.oneshot(request).await;
    response
}

/// Returns a layer with a store of its own, whose clock stands still.
fn per_day(limit: u32) -> RateLimitLayer {
    let store = LocalStore::new().clock(ManualClock::new());
    RateLimitLayer::new(Quota::per_day(limit), store)
        .headers(ResponseHeaders::x_rate_limit().and_ietf())
}

/// Returns what the layer has left for `alice`, and charges nothing.
async fn peek_remaining(layer: &RateLimitLayer) -> String {
    let free = layer.clone().cost_for(|_| 0);
    let response = send(&free, request("alice")).await;
    header(&response, "x-ratelimit-remaining").unwrap().into()
}

/// Returns limit and remaining. Asserts that both sets of headers have these values, once.
fn limit_and_remaining<B>(response: &Response<B>) -> [String; 2] {
    let [limit, remaining] = ["x-ratelimit-limit", "x-ratelimit-remaining"]
        .map(|name| header(response, name).unwrap().to_owned());
    let policies = header(response, "ratelimit-policy").unwrap();
    assert_eq!(policies, format!(r#""default";q={limit};w=86400"#));
    let ietf = header(response, "ratelimit").unwrap();
    assert!(
        ietf.starts_with(&format!(r#""default";r={remaining};t="#)),
        "{ietf}"
    );
    assert!(header(response, "x-ratelimit-reset").is_some());
    [limit, remaining]
}

#[tokio::test]
async fn allowed_response_has_headers_of_most_restrictive_layer() {
    let (few, many) = (per_day(5), per_day(100));
    let response = send_through(&few, &many, request("alice")).await;
    assert_eq!(limit_and_remaining(&response), ["5", "4"]);
    let response = send_through(&many, &few, request("alice")).await;
    assert_eq!(limit_and_remaining(&response), ["5", "3"]);

    // The layer with the least left, whatever the limits.
    let (spent, fresh) = (per_day(100), per_day(5));
    for _ in 0..97 {
        send(&spent, request("alice")).await;
    }
    let response = send_through(&spent, &fresh, request("alice")).await;
    assert_eq!(limit_and_remaining(&response), ["100", "2"]);
    let response = send_through(&fresh, &spent, request("alice")).await;
    assert_eq!(limit_and_remaining(&response), ["100", "1"]);
}

#[tokio::test]
async fn denial_has_headers_of_the_denying_layer() {
    let (few, many) = (per_day(1), per_day(100));
    send_through(&many, &few, request("alice")).await;

    let denied = send_through(&many, &few, request("alice")).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limit_and_remaining(&denied), ["1", "0"]);
    assert_eq!(header(&denied, "retry-after"), Some("86400"));
    assert_eq!(header(&denied, "cache-control"), Some("no-store"));
    assert_eq!(
        peek_remaining(&many).await,
        "98",
        "the outer layer has charged it"
    );

    let denied = send_through(&few, &many, request("alice")).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limit_and_remaining(&denied), ["1", "0"]);
    assert_eq!(header(&denied, "retry-after"), Some("86400"));
    assert_eq!(
        peek_remaining(&many).await,
        "98",
        "the inner layer was not called"
    );
}

#[tokio::test]
async fn inner_denial_keeps_headers_under_tighter_outer_layer() {
    let teapot = |rejection: &tollgate::Rejection<'_>| {
        let mut response = rejection.response();
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    };
    let three = per_day(5).cost_for(|_| 3);
    send(&three, request("alice")).await;
    for (inner, status, remaining, retry_after) in [
        (three.clone(), 429, "2", Some("17280")),
        (three.on_reject(teapot), 418, "2", Some("17280")),
        // A cost above the capacity never fits, so there is no `retry-after`.
        (per_day(5).cost_for(|_| 6), 429, "5", None),
    ] {
        let outer = per_day(2);
        let response = send_through(&outer, &inner, request("alice")).await;
        assert_eq!(response.status(), status);
        assert_eq!(limit_and_remaining(&response), ["5", remaining]);
        assert_eq!(header(&response, "retry-after"), retry_after);
        assert_eq!(peek_remaining(&outer).await, "1");
    }
}

#[tokio::test]
async fn inner_grpc_denial_keeps_its_headers() {
    for cost in [1, 6] {
        let inner = per_day(5).cost_for(move |_| cost);
        for _ in 0..5 {
            send(&inner, request("alice")).await;
        }
        let call = grpc_call("application/grpc", Method::POST, Version::HTTP_2);
        let response = send_through(&per_day(1), &inner, call).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "grpc-status"), Some("8"));
        assert!(header(&response, "grpc-retry-pushback-ms").is_some());
        assert_eq!(limit_and_remaining(&response)[0], "5");
    }
}

#[tokio::test]
async fn layer_without_headers_or_skipped_is_ignored() {
    let without_headers = |limit| per_day(limit).headers(ResponseHeaders::none());
    for (outer, inner, limit) in [
        (without_headers(3), per_day(5), "5"),
        (per_day(5), without_headers(3), "5"),
        (per_day(3), per_day(5).skip(|_| true), "3"),
        (per_day(3).skip(|_| true), per_day(5), "5"),
    ] {
        let response = send_through(&outer, &inner, request("alice")).await;
        assert_eq!(limit_and_remaining(&response)[0], limit);
    }
    let ietf = |limit| per_day(limit).headers(ResponseHeaders::ietf());
    for (outer, inner) in [(3, 5), (5, 3)] {
        let response = send_through(&ietf(outer), &ietf(inner), request("alice")).await;
        let policy = header(&response, "ratelimit-policy");
        assert_eq!(policy, Some(r#""default";q=3;w=86400"#));
        assert_eq!(header(&response, "x-ratelimit-limit"), None);
    }
}

#[tokio::test]
async fn forged_headers_of_the_application_are_replaced() {
    let forging = |_: Request| async {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        for value in ["plenty", "99"] {
            headers.append("x-ratelimit-remaining", HeaderValue::from_static(value));
            headers.append("ratelimit", HeaderValue::from_static(value));
        }
        Ok::<_, std::convert::Infallible>(response)
    };
    let Ok(response) = per_day(5)
        .layer(service_fn(forging))
        .oneshot(request("alice"))
        .await;
    assert_eq!(limit_and_remaining(&response), ["5", "4"]);
}

#[tokio::test]
async fn application_429_has_headers_of_the_layer() {
    let busy = |_: Request| async {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        Ok::<_, std::convert::Infallible>(response)
    };
    let Ok(response) = per_day(5)
        .layer(service_fn(busy))
        .oneshot(request("alice"))
        .await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limit_and_remaining(&response), ["5", "4"]);
    assert_eq!(header(&response, "retry-after"), None);
}

#[tokio::test]
async fn degraded_and_shadow_flags_survive_stacking() {
    let failing = || {
        let store = ProgrammableStore::new();
        store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
        store
    };
    let degraded = |limit| RateLimitLayer::new(Quota::per_day(limit), failing());
    for (outer, inner, limit) in [
        (per_day(5), degraded(3), "3"),
        (per_day(3), degraded(5), "3"),
        (degraded(5), per_day(3), "3"),
        (degraded(3), per_day(5), "3"),
    ] {
        let response = send_through(&outer, &inner, request("alice")).await;
        assert_eq!(header(&response, "x-ratelimit-limit"), Some(limit));
        assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
        assert_eq!(header(&response, "x-ratelimit-shadow"), None);
    }

    // A shadow layer does not hide the headers of a layer that enforces its limit.
    let shadow = |limit| per_day(limit).shadow(true);
    for (outer, inner, numbers) in [
        (shadow(1), per_day(5), [["5", "4"], ["5", "3"]]),
        (per_day(5), shadow(1), [["5", "4"], ["5", "3"]]),
        (shadow(1), shadow(1), [["1", "0"], ["1", "0"]]),
    ] {
        for (shadowed, numbers) in [None, Some("true")].into_iter().zip(numbers) {
            let response = send_through(&outer, &inner, request("alice")).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(limit_and_remaining(&response), numbers);
            assert_eq!(header(&response, "x-ratelimit-shadow"), shadowed);
            assert_eq!(header(&response, "x-ratelimit-degraded"), None);
        }
    }

    // A refusal by the inner layer keeps its status and headers.
    let refusing = degraded(5)
        .failure_strategy(FailureStrategy::Closed)
        .refused_status(StatusCode::SERVICE_UNAVAILABLE);
    let response = send_through(&per_day(3), &refusing, request("alice")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&response, "x-ratelimit-limit"), Some("5"));
    assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
}

#[tokio::test]
async fn headers_come_from_one_layer_in_any_form() {
    let plain = |limit| per_day(limit).headers(ResponseHeaders::x_rate_limit());
    let ietf = |limit| per_day(limit).headers(ResponseHeaders::ietf());
    let two_a_day = Some("\"default\";q=2;w=86400");
    for (outer, inner, [limit, policy]) in [
        (plain(2), per_day(5), [Some("2"), None]),
        (per_day(2), plain(5), [Some("2"), two_a_day]),
        (ietf(2), plain(5), [None, two_a_day]),
        (plain(5), ietf(2), [None, two_a_day]),
        (ietf(5), plain(2), [Some("2"), None]),
    ] {
        let response = send_through(&outer, &inner, request("alice")).await;
        assert_eq!(header(&response, "x-ratelimit-limit"), limit);
        assert_eq!(header(&response, "ratelimit-policy"), policy);
        assert_eq!(header(&response, "ratelimit").is_some(), policy.is_some());
        let remaining = header(&response, "x-ratelimit-remaining");
        assert_eq!(remaining.is_some(), limit.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn counts_are_separate_by_scope_policy_and_quota() {
    for store in stores() {
        let limiter = Limiter::from(store);
        let named = |name: &str, quota| Limits::new([Policy::new(name, quota)]).unwrap();
        let layer = |limits: Limits| RateLimitLayer::new(limits, limiter.clone());
        let plan = || named("plan", Quota::per_day(1));
        let others = [
            layer(plan()).scope("other"),
            layer(named("other", Quota::per_day(1))),
            layer(named("plan", Quota::per_day(2).burst(1))),
            layer(named(
                "plan",
                Quota::fixed_window(1, Quota::per_day(1).period()),
            )),
        ];
        let first = layer(plan());
        for layer in others.iter().chain([&first]) {
            assert_eq!(
                send(layer, request("alice")).await.status(),
                200,
                "{layer:?}"
            );
            assert_eq!(
                send(layer, request("alice")).await.status(),
                429,
                "{layer:?}"
            );
        }

        // Layers with the same scope, policy and quota share a count.
        for layer in [layer(plan()), layer(plan()).scope("default"), first.clone()] {
            assert_eq!(send(&layer, request("alice")).await.status(), 429);
        }
    }
}

#[tokio::test]
async fn separate_stores_share_nothing() {
    for layer in [per_day(1), per_day(1)] {
        assert_eq!(send(&layer, request("alice")).await.status(), 200);
    }
}
