//! A server without Redis and without a configuration answers checks over HTTP and gRPC, and tells
//! of its health and its metrics.

use hyper::{Method, StatusCode};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::Server;
use crate::support::grpc::{self, check_request};
use crate::support::http::{self, check, get, header, json_body};
use crate::support::protocol::tollgate::v1;

#[tokio::test]
async fn limit_in_request_is_applied() {
    let server = Server::start(&[]);
    let request = r#"{"key":"user_123","rate":5,"interval":"1d"}"#;
    for remaining in (0..5).rev() {
        let response = check(server.http(), request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = json_body(&response);
        assert_eq!(body["allowed"], json!(true));
        assert_eq!(body["limit"], json!(5));
        assert_eq!(body["remaining"], json!(remaining));
        assert_eq!(body["retry_after_ms"], json!(0));
        assert_eq!(body["degraded"], json!(false));
        assert_eq!(header(&response, "x-ratelimit-limit"), Some("5"));
        let remaining = remaining.to_string();
        assert_eq!(
            header(&response, "x-ratelimit-remaining"),
            Some(&*remaining)
        );
        assert_eq!(header(&response, "x-ratelimit-degraded"), None);
    }
    let denied = check(server.http(), request).await;
    assert_eq!(denied.status(), StatusCode::OK);
    let body = json_body(&denied);
    assert_eq!(body["allowed"], json!(false));
    // At most a fifth of a day.
    let retry_after = body["retry_after_ms"].as_u64().unwrap();
    assert!((1..=17_280_000).contains(&retry_after), "{retry_after}");
    assert_eq!(header(&denied, "x-ratelimit-remaining"), Some("0"));
    assert!(header(&denied, "x-ratelimit-reset").is_some());

    // A status is not charged.
    let path = "/status/user_123?rate=5&interval=1d";
    let status = json_body(&get(server.http(), path).await);
    assert_eq!(status["remaining"], json!(0));
    let path = "/status/another%20user?rate=5&interval=1d";
    for _ in 0..2 {
        let status = json_body(&get(server.http(), path).await);
        assert_eq!(status["remaining"], json!(5));
    }
}

#[tokio::test]
async fn burst_cost_and_algorithm_in_request_are_applied() {
    let server = Server::start(&[]);
    let request = r#"{"key":"a","rate":2,"interval":"1d","burst":9,"cost":4}"#;
    let body = json_body(&check(server.http(), request).await);
    assert_eq!((&body["limit"], &body["remaining"]), (&json!(9), &json!(5)));

    // With a burst of the whole rate, this quota could not be counted exactly, and would be
    // refused.
    let request = r#"{"key":"a","rate":99999989,"interval":"1d","burst":1000}"#;
    let body = json_body(&check(server.http(), request).await);
    assert_eq!(body["remaining"], json!(999));

    let request = r#"{"key":"a","rate":2,"interval":"30d","algorithm":"fixed_window"}"#;
    let body = json_body(&check(server.http(), request).await);
    assert_eq!((&body["limit"], &body["remaining"]), (&json!(2), &json!(1)));

    let request = r#"{"key":"a","rate":2,"interval":"30d","algorithm":"sliding_window","cost":3}"#;
    let body = json_body(&check(server.http(), request).await);
    assert_eq!(body["allowed"], json!(false));
    assert_eq!(body["retry_after_ms"], json!(null), "the cost never fits");
}

#[tokio::test]
async fn configured_limit_is_applied_per_key() {
    let server = Server::start(&[("DEFAULT__LIMIT", "2/1d")]);
    for allowed in [true, true, false] {
        let body = json_body(&check(server.http(), r#"{"key":"user123"}"#).await);
        assert_eq!(body["allowed"], json!(allowed));
        assert_eq!(body["limit"], json!(2));
    }
    let body = json_body(&check(server.http(), r#"{"key":"user124"}"#).await);
    assert_eq!(body["allowed"], json!(true), "another key");
    let status = json_body(&get(server.http(), "/status/user123").await);
    assert_eq!(status["remaining"], json!(0));
}

#[tokio::test]
async fn invalid_request_is_refused_with_its_field() {
    let server = Server::start(&[]);
    let invalid = [
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
    for (request, field) in invalid {
        let response = check(server.http(), request).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{request}");
        let content_type = header(&response, "content-type");
        assert_eq!(content_type, Some("application/problem+json"), "{request}");
        let problem = json_body(&response);
        assert_eq!(problem["field"].as_str(), field, "{request}: {problem}");
        assert_eq!(problem["status"], json!(400));
    }
    let large = format!(r#"{{"key":"{}"}}"#, "a".repeat(100_000));
    let response = check(server.http(), &large).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let response = get(server.http(), "/status/a?rate=many&interval=1s").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let response = get(server.http(), "/check").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    let response = http::call(Method::POST, server.http(), "/chek", &[], "").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn health_readiness_and_metrics_are_served() {
    let server = Server::start(&[]);
    assert_eq!(get(server.http(), "/health").await.body(), "ok\n");
    let ready = get(server.http(), "/ready").await;
    assert_eq!(ready.status(), StatusCode::OK);
    let body = json_body(&ready);
    assert_eq!(
        (&body["ready"], &body["degraded"]),
        (&json!(true), &json!(false))
    );
    check(server.http(), r#"{"key":"user123"}"#).await;
    check(server.http(), r#"{"key":}"#).await;
    let metrics = get(server.http(), "/metrics").await.into_body();
    for expected in [
        r#"tollgate_server_requests_total{protocol="http",outcome="allowed"} 1"#,
        r#"tollgate_server_requests_total{protocol="http",outcome="invalid"} 1"#,
        r#"rate_limit_allowed_total{identity="key",policy="default"} 1"#,
    ] {
        let is_there = metrics.lines().any(|line| line == expected);
        assert!(is_there, "{expected}:\n{metrics}");
    }
    assert!(!metrics.contains("user123"), "a label contains a key");
}

/// A limit of two a day with a burst of three: no token is added while a test runs.
const LIMIT: v1::Limit = v1::Limit {
    rate: 2,
    interval: Some(prost_types::Duration {
        seconds: 86_400,
        nanos: 0,
    }),
    burst: Some(3),
    algorithm: v1::Algorithm::TokenBucket as i32,
};

#[tokio::test]
async fn grpc_applies_limit_in_request() {
    let server = Server::start(&[]);
    let mut client = grpc::connect(server.grpc_url()).await;
    let mut check = async |cost| {
        let request = v1::CheckLimitRequest {
            limit: Some(LIMIT),
            cost: Some(cost),
            ..check_request("a")
        };
        let response = client.check_limit(request).await.unwrap();
        response.into_inner().status.unwrap()
    };
    let status = check(2).await;
    assert!(status.allowed && !status.degraded);
    assert_eq!((status.limit, status.remaining), (3, 1));
    assert_eq!(status.retry_after, Some(prost_types::Duration::default()));
    let status = check(2).await;
    assert!(!status.allowed);
    // At most half a day.
    let retry_after = status.retry_after.unwrap().seconds;
    assert!((1..=43_200).contains(&retry_after), "{retry_after}");
    let status = check(4).await;
    assert_eq!(status.retry_after, None, "the cost never fits");
    let request = v1::GetStatusRequest {
        key: "a".into(),
        tenant: None,
        limit: Some(LIMIT),
    };
    let response = client.get_status(request).await.unwrap();
    assert_eq!(response.into_inner().status.unwrap().remaining, 1);
}

#[tokio::test]
async fn grpc_and_http_share_counts() {
    let server = Server::start(&[("DEFAULT__LIMIT", "60/1d")]);
    let mut client = grpc::connect(server.grpc_url()).await;
    let response = client.check_limit(check_request("user123")).await.unwrap();
    assert_eq!(response.into_inner().status.unwrap().remaining, 59);
    let body = json_body(&check(server.http(), r#"{"key":"user123"}"#).await);
    assert_eq!(body["remaining"], json!(58));
}

#[tokio::test]
async fn invalid_grpc_request_is_refused_with_its_field() {
    let server = Server::start(&[]);
    let mut client = grpc::connect(server.grpc_url()).await;
    let with_limit = |limit| v1::CheckLimitRequest {
        limit: Some(limit),
        ..check_request("a")
    };
    let without_interval = v1::Limit {
        interval: None,
        ..LIMIT
    };
    let invalid = [
        ("`key`", v1::CheckLimitRequest::default()),
        ("`limit.rate`", with_limit(v1::Limit { rate: 0, ..LIMIT })),
        ("`limit.interval`", with_limit(without_interval)),
    ];
    for (field, request) in invalid {
        let status = client.check_limit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status:?}");
    }
}

#[tokio::test]
async fn grpc_health_and_reflection_are_served() {
    let server = Server::start(&[]);
    let channel = tonic::transport::Endpoint::new(server.grpc_url());
    let channel = channel.unwrap().connect().await.unwrap();
    let request = HealthCheckRequest {
        service: "tollgate.v1.RateLimiter".into(),
    };
    let response = HealthClient::new(channel.clone()).check(request).await;
    let status = response.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::Serving);

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
    let mut services = list.service.iter();
    let is_listed = services.any(|service| service.name == "tollgate.v1.RateLimiter");
    assert!(is_listed, "{list:?}");
}
