//! Without Redis and without a configuration, the server answers both forms of `/check`, and gRPC.

use hyper::{Method, StatusCode};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::client::{check, get, header, json};
use crate::support::protocol::tollgate::v1;
use crate::support::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;
use crate::support::{Replica, call};

#[tokio::test]
async fn limits_given_by_the_caller() {
    let server = Replica::start(&[]);
    let ask = r#"{"key":"user_123","rate":5,"interval":"1d"}"#;
    for remaining in (0..5).rev() {
        let answer = check(server.http(), ask).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let said = json(&answer);
        assert_eq!(said["allowed"], json!(true));
        assert_eq!(said["limit"], json!(5));
        assert_eq!(said["remaining"], json!(remaining));
        assert_eq!(said["retry_after_ms"], json!(0));
        assert_eq!(said["degraded"], json!(false));
        assert_eq!(header(&answer, "x-ratelimit-limit"), Some("5"));
        let left = remaining.to_string();
        assert_eq!(header(&answer, "x-ratelimit-remaining"), Some(&*left));
        assert_eq!(header(&answer, "x-ratelimit-degraded"), None);
    }
    let denied = check(server.http(), ask).await;
    assert_eq!(denied.status(), StatusCode::OK);
    let said = json(&denied);
    assert_eq!(said["allowed"], json!(false));
    // A fifth of a day, less what has passed.
    let wait = said["retry_after_ms"].as_u64().unwrap();
    assert!((1..=17_280_000).contains(&wait), "{wait}");
    assert_eq!(header(&denied, "x-ratelimit-remaining"), Some("0"));
    assert!(header(&denied, "x-ratelimit-reset").is_some());

    // To look costs nothing.
    let path = "/status/user_123?rate=5&interval=1d";
    assert_eq!(json(&get(server.http(), path).await)["remaining"], json!(0));
    let path = "/status/somebody%20else?rate=5&interval=1d";
    for _ in 0..2 {
        let answer = json(&get(server.http(), path).await);
        assert_eq!(answer["remaining"], json!(5));
    }
}

#[tokio::test]
async fn options_of_the_caller() {
    let server = Replica::start(&[]);
    let ask = r#"{"key":"a","rate":2,"interval":"1d","burst":9,"cost":4}"#;
    let said = json(&check(server.http(), ask).await);
    assert_eq!((&said["limit"], &said["remaining"]), (&json!(9), &json!(5)));

    // Exact with this burst, and not with a burst of the whole rate.
    let ask = r#"{"key":"a","rate":99999989,"interval":"1d","burst":1000}"#;
    let said = json(&check(server.http(), ask).await);
    assert_eq!(said["remaining"], json!(999));

    let ask = r#"{"key":"a","rate":2,"interval":"30d","algorithm":"fixed_window"}"#;
    let said = json(&check(server.http(), ask).await);
    assert_eq!((&said["limit"], &said["remaining"]), (&json!(2), &json!(1)));

    let ask = r#"{"key":"a","rate":2,"interval":"30d","algorithm":"sliding_window","cost":3}"#;
    let said = json(&check(server.http(), ask).await);
    assert_eq!(said["allowed"], json!(false));
    assert_eq!(said["retry_after_ms"], json!(null), "it never fits");
}

#[tokio::test]
async fn limits_of_the_configuration() {
    let server = Replica::start(&[("DEFAULT__LIMIT", "2/1d")]);
    for allowed in [true, true, false] {
        let said = json(&check(server.http(), r#"{"key":"user123"}"#).await);
        assert_eq!(said["allowed"], json!(allowed));
        assert_eq!(said["limit"], json!(2));
    }
    let said = json(&check(server.http(), r#"{"key":"user124"}"#).await);
    assert_eq!(said["allowed"], json!(true), "another key");
    let said = json(&get(server.http(), "/status/user123").await);
    assert_eq!(said["remaining"], json!(0));
}

#[tokio::test]
async fn a_request_that_cannot_be_understood() {
    let server = Replica::start(&[]);
    let wrong = [
        (r#"{"key":"#, None),
        (r#"["key"]"#, None),
        (r#"{"key":"a"} {}"#, None),
        (r#"{}"#, Some("key")),
        (r#"{"key":""}"#, Some("key")),
        (r#"{"key":7}"#, Some("key")),
        (r#"{"key":"a","key":"b"}"#, Some("key")),
        (r#"{"key":"a","weight":2}"#, Some("weight")),
        (r#"{"key":"a","tenant":"a b"}"#, Some("tenant")),
        (r#"{"key":"a","cost":-1}"#, Some("cost")),
        (r#"{"key":"a","rate":5}"#, Some("interval")),
        (r#"{"key":"a","interval":"1s"}"#, Some("rate")),
        (r#"{"key":"a","burst":5}"#, Some("burst")),
        (r#"{"key":"a","rate":0,"interval":"1s"}"#, Some("rate")),
        (r#"{"key":"a","rate":"5","interval":"1s"}"#, Some("rate")),
        (
            r#"{"key":"a","rate":5,"interval":"soon"}"#,
            Some("interval"),
        ),
        (r#"{"key":"a","rate":5,"interval":"0s"}"#, Some("interval")),
        (
            r#"{"key":"a","rate":5,"interval":"900y"}"#,
            Some("interval"),
        ),
        (
            r#"{"key":"a","rate":5,"interval":"1s","burst":0}"#,
            Some("burst"),
        ),
        (
            r#"{"key":"a","rate":5,"interval":"1s","algorithm":"guess"}"#,
            Some("algorithm"),
        ),
    ];
    for (body, field) in wrong {
        let answer = check(server.http(), body).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body}");
        let kind = header(&answer, "content-type");
        assert_eq!(kind, Some("application/problem+json"), "{body}");
        let said = json(&answer);
        assert_eq!(said["field"].as_str(), field, "{body}: {said}");
        assert_eq!(said["status"], json!(400));
    }
    let large = format!(r#"{{"key":"{}"}}"#, "a".repeat(100_000));
    let answer = check(server.http(), &large).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer = get(server.http(), "/status/a?rate=many&interval=1s").await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let answer = get(server.http(), "/check").await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    let answer = call(Method::POST, server.http(), "/chek", &[], "").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn health_readiness_and_metrics() {
    let server = Replica::start(&[]);
    assert_eq!(get(server.http(), "/health").await.body(), "ok\n");
    let ready = get(server.http(), "/ready").await;
    assert_eq!(ready.status(), StatusCode::OK);
    let said = json(&ready);
    assert_eq!(
        (&said["ready"], &said["degraded"]),
        (&json!(true), &json!(false))
    );
    check(server.http(), r#"{"key":"user123"}"#).await;
    check(server.http(), r#"{"key":}"#).await;
    let metrics = get(server.http(), "/metrics").await;
    for line in [
        r#"tollgate_server_requests_total{door="http",outcome="allowed"} 1"#,
        r#"tollgate_server_requests_total{door="http",outcome="invalid"} 1"#,
        r#"rate_limit_allowed_total{identity="key",policy="default"} 1"#,
    ] {
        let mut lines = metrics.body().lines();
        assert!(
            lines.any(|said| said == line),
            "{line}:\n{}",
            metrics.body()
        );
    }
    assert!(!metrics.body().contains("user123"), "no label holds a key");
}

#[tokio::test]
async fn grpc() {
    // Nothing is regained while this runs.
    let server = Replica::start(&[("DEFAULT__LIMIT", "60/1d")]);
    let mut client = RateLimiterClient::connect(server.grpc_url()).await.unwrap();
    let limit = v1::Limit {
        rate: 2,
        interval: Some(prost_types::Duration {
            seconds: 86_400,
            nanos: 0,
        }),
        burst: Some(3),
        algorithm: v1::Algorithm::TokenBucket.into(),
    };
    let request = v1::CheckLimitRequest {
        key: "a".into(),
        tenant: None,
        limit: Some(limit),
        cost: Some(2),
    };
    let response = client.check_limit(request.clone()).await.unwrap();
    let status = response.into_inner().status.unwrap();
    assert!(status.allowed && !status.degraded);
    assert_eq!((status.limit, status.remaining), (3, 1));
    assert_eq!(status.retry_after, Some(prost_types::Duration::default()));
    let response = client.check_limit(request.clone()).await.unwrap();
    let status = response.into_inner().status.unwrap();
    assert!(!status.allowed);
    let wait = status.retry_after.unwrap().seconds;
    assert!((1..=43_200).contains(&wait), "{wait}");
    let request = v1::CheckLimitRequest {
        cost: Some(4),
        ..request
    };
    let response = client.check_limit(request).await.unwrap();
    let status = response.into_inner().status.unwrap();
    assert_eq!(status.retry_after, None, "it never fits");
    let request = v1::GetStatusRequest {
        key: "a".into(),
        tenant: None,
        limit: Some(limit),
    };
    let response = client.get_status(request).await.unwrap();
    assert_eq!(response.into_inner().status.unwrap().remaining, 1);

    // The other form, which counts together with the HTTP door's.
    let request = v1::CheckLimitRequest {
        key: "user123".into(),
        ..Default::default()
    };
    let response = client.check_limit(request).await.unwrap();
    assert_eq!(response.into_inner().status.unwrap().remaining, 59);
    let said = json(&check(server.http(), r#"{"key":"user123"}"#).await);
    assert_eq!(said["remaining"], json!(58));

    let wrong = [
        ("`key`", v1::CheckLimitRequest::default()),
        (
            "`limit.rate`",
            v1::CheckLimitRequest {
                key: "a".into(),
                limit: Some(v1::Limit { rate: 0, ..limit }),
                ..Default::default()
            },
        ),
        (
            "`limit.interval`",
            v1::CheckLimitRequest {
                key: "a".into(),
                limit: Some(v1::Limit {
                    interval: None,
                    ..limit
                }),
                ..Default::default()
            },
        ),
    ];
    for (field, request) in wrong {
        let status = client.check_limit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status:?}");
    }
}

#[tokio::test]
async fn grpc_health_and_reflection() {
    let server = Replica::start(&[]);
    let channel = tonic::transport::Endpoint::new(server.grpc_url());
    let channel = channel.unwrap().connect().await.unwrap();
    let request = HealthCheckRequest {
        service: "tollgate.v1.RateLimiter".into(),
    };
    let response = HealthClient::new(channel.clone()).check(request).await;
    let status = response.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::Serving);

    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([request]);
    let mut client = ServerReflectionClient::new(channel);
    let response = client.server_reflection_info(requests).await.unwrap();
    let response = response.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = response.message_response else {
        panic!("{response:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(
        names.contains(&"tollgate.v1.RateLimiter".to_owned()),
        "{names:?}"
    );
}
