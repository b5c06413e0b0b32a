//! Where layers are stacked, a response carries one set of headers: those of the most restrictive
//! one, whichever is outside; and each counts for itself unless it is told to share.

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

/// Sends a request through both layers to a service that says hello.
async fn through(outer: &RateLimitLayer, inner: &RateLimitLayer, request: Request) -> Answer {
    let service = outer.layer(inner.layer(service_fn(hello)));
    let Ok(response) = service.oneshot(request).await;
    response
}

/// A layer with counts of its own, for which time stands still.
fn a_day(limit: u32) -> RateLimitLayer {
    let store = LocalStore::new().clock(ManualClock::new());
    RateLimitLayer::new(Quota::per_day(limit), store)
        .headers(ResponseHeaders::x_rate_limit().and_ietf())
}

/// What the layer has left for alice.
async fn left(layer: &RateLimitLayer) -> String {
    let look = layer.clone().cost_for(|_| 0);
    let response = send(&look, request("alice")).await;
    header(&response, "x-ratelimit-remaining").unwrap().into()
}

/// Limit and remaining by either set of headers, each of which is there once.
fn announced<B>(response: &Response<B>) -> [String; 2] {
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
async fn an_allowed_response_carries_the_headers_of_the_most_restrictive_layer() {
    let (few, many) = (a_day(5), a_day(100));
    let response = through(&few, &many, request("alice")).await;
    assert_eq!(announced(&response), ["5", "4"]);
    let response = through(&many, &few, request("alice")).await;
    assert_eq!(announced(&response), ["5", "3"]);

    // The one with the least left, whatever their limits.
    let (spent, fresh) = (a_day(100), a_day(5));
    for _ in 0..97 {
        send(&spent, request("alice")).await;
    }
    let response = through(&spent, &fresh, request("alice")).await;
    assert_eq!(announced(&response), ["100", "2"]);
    let response = through(&fresh, &spent, request("alice")).await;
    assert_eq!(announced(&response), ["100", "1"]);
}

#[tokio::test]
async fn a_denial_carries_the_headers_of_the_layer_that_denied() {
    let (few, many) = (a_day(1), a_day(100));
    through(&many, &few, request("alice")).await;

    let denied = through(&many, &few, request("alice")).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(announced(&denied), ["1", "0"]);
    assert_eq!(header(&denied, "retry-after"), Some("86400"));
    assert_eq!(header(&denied, "cache-control"), Some("no-store"));
    assert_eq!(left(&many).await, "98", "the outer one has let it through");

    let denied = through(&few, &many, request("alice")).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(announced(&denied), ["1", "0"]);
    assert_eq!(header(&denied, "retry-after"), Some("86400"));
    assert_eq!(left(&many).await, "98", "the inner one was not asked");
}

#[tokio::test]
async fn an_inner_denial_keeps_its_headers_though_an_outer_layer_has_less_left() {
    let teapot = |rejection: &tollgate::Rejection<'_>| {
        let mut response = rejection.response();
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    };
    let three = a_day(5).cost_for(|_| 3);
    send(&three, request("alice")).await;
    for (inner, status, remaining, retry_after) in [
        (three.clone(), 429, "2", Some("17280")),
        (three.on_reject(teapot), 418, "2", Some("17280")),
        // It can never fit, so there is no wait to tell it by.
        (a_day(5).cost_for(|_| 6), 429, "5", None),
    ] {
        let outer = a_day(2);
        let response = through(&outer, &inner, request("alice")).await;
        assert_eq!(response.status(), status);
        assert_eq!(announced(&response), ["5", remaining]);
        assert_eq!(header(&response, "retry-after"), retry_after);
        assert_eq!(left(&outer).await, "1");
    }
}

#[tokio::test]
async fn an_inner_denial_of_a_grpc_call_keeps_its_headers() {
    for cost in [1, 6] {
        let inner = a_day(5).cost_for(move |_| cost);
        for _ in 0..5 {
            send(&inner, request("alice")).await;
        }
        let call = grpc_call("application/grpc", Method::POST, Version::HTTP_2);
        let response = through(&a_day(1), &inner, call).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "grpc-status"), Some("8"));
        assert!(header(&response, "grpc-retry-pushback-ms").is_some());
        assert_eq!(announced(&response)[0], "5");
    }
}

#[tokio::test]
async fn whoever_announces_nothing_is_not_heard() {
    let quiet = |limit| a_day(limit).headers(ResponseHeaders::none());
    for (outer, inner, limit) in [
        (quiet(3), a_day(5), "5"),
        (a_day(5), quiet(3), "5"),
        (a_day(3), a_day(5).skip(|_| true), "3"),
        (a_day(3).skip(|_| true), a_day(5), "5"),
    ] {
        let response = through(&outer, &inner, request("alice")).await;
        assert_eq!(announced(&response)[0], limit);
    }
    let ietf = |limit| a_day(limit).headers(ResponseHeaders::ietf());
    for (outer, inner) in [(3, 5), (5, 3)] {
        let response = through(&ietf(outer), &ietf(inner), request("alice")).await;
        let policy = header(&response, "ratelimit-policy");
        assert_eq!(policy, Some(r#""default";q=3;w=86400"#));
        assert_eq!(header(&response, "x-ratelimit-limit"), None);
    }
}

#[tokio::test]
async fn what_an_application_made_up_is_written_over() {
    let made_up = |_: Request| async {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        for value in ["plenty", "99"] {
            headers.append("x-ratelimit-remaining", HeaderValue::from_static(value));
            headers.append("ratelimit", HeaderValue::from_static(value));
        }
        Ok::<_, std::convert::Infallible>(response)
    };
    let Ok(response) = a_day(5)
        .layer(service_fn(made_up))
        .oneshot(request("alice"))
        .await;
    assert_eq!(announced(&response), ["5", "4"]);
}

#[tokio::test]
async fn a_429_of_the_application_carries_the_layers_headers() {
    let busy = |_: Request| async {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        Ok::<_, std::convert::Infallible>(response)
    };
    let Ok(response) = a_day(5)
        .layer(service_fn(busy))
        .oneshot(request("alice"))
        .await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(announced(&response), ["5", "4"]);
    assert_eq!(header(&response, "retry-after"), None);
}

#[tokio::test]
async fn flags_survive_whichever_layer_speaks() {
    let failing = || {
        let store = ProgrammableStore::new();
        store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
        store
    };
    let degraded = |limit| RateLimitLayer::new(Quota::per_day(limit), failing());
    for (outer, inner, limit) in [
        (a_day(5), degraded(3), "3"),
        (a_day(3), degraded(5), "3"),
        (degraded(5), a_day(3), "3"),
        (degraded(3), a_day(5), "3"),
    ] {
        let response = through(&outer, &inner, request("alice")).await;
        assert_eq!(header(&response, "x-ratelimit-limit"), Some(limit));
        assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
        assert_eq!(header(&response, "x-ratelimit-shadow"), None);
    }

    // What binds nobody does not hide what binds.
    let shadow = |limit| a_day(limit).shadow(true);
    for (outer, inner, numbers) in [
        (shadow(1), a_day(5), [["5", "4"], ["5", "3"]]),
        (a_day(5), shadow(1), [["5", "4"], ["5", "3"]]),
        (shadow(1), shadow(1), [["1", "0"], ["1", "0"]]),
    ] {
        for (shadowed, numbers) in [None, Some("true")].into_iter().zip(numbers) {
            let response = through(&outer, &inner, request("alice")).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(announced(&response), numbers);
            assert_eq!(header(&response, "x-ratelimit-shadow"), shadowed);
            assert_eq!(header(&response, "x-ratelimit-degraded"), None);
        }
    }

    // Refused inside: with its own status, the flag, and nothing of the outer layer's.
    let refusing = degraded(5)
        .failure_strategy(FailureStrategy::Closed)
        .refused_status(StatusCode::SERVICE_UNAVAILABLE);
    let response = through(&a_day(3), &refusing, request("alice")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&response, "x-ratelimit-limit"), Some("5"));
    assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
}

#[tokio::test]
async fn one_layer_speaks_in_whatever_form() {
    let plain = |limit| a_day(limit).headers(ResponseHeaders::x_rate_limit());
    let ietf = |limit| a_day(limit).headers(ResponseHeaders::ietf());
    let two_a_day = Some("\"default\";q=2;w=86400");
    for (outer, inner, [limit, policy]) in [
        (plain(2), a_day(5), [Some("2"), None]),
        (a_day(2), plain(5), [Some("2"), two_a_day]),
        (ietf(2), plain(5), [None, two_a_day]),
        (plain(5), ietf(2), [None, two_a_day]),
        (ietf(5), plain(2), [Some("2"), None]),
    ] {
        let response = through(&outer, &inner, request("alice")).await;
        assert_eq!(header(&response, "x-ratelimit-limit"), limit);
        assert_eq!(header(&response, "ratelimit-policy"), policy);
        assert_eq!(header(&response, "ratelimit").is_some(), policy.is_some());
        let remaining = header(&response, "x-ratelimit-remaining");
        assert_eq!(remaining.is_some(), limit.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn counts_are_told_apart_by_scope_policy_and_quota() {
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
        let one = layer(plan());
        for layer in others.iter().chain([&one]) {
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

        // The same of all of these is the same count, in one layer or in several.
        for layer in [layer(plan()), layer(plan()).scope("default"), one.clone()] {
            assert_eq!(send(&layer, request("alice")).await.status(), 429);
        }
    }
}

#[tokio::test]
async fn stores_of_their_own_share_nothing() {
    let (one, other) = (a_day(1), a_day(1));
    for layer in [one, other] {
        assert_eq!(send(&layer, request("alice")).await.status(), 200);
    }
}
