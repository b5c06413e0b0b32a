//! Callers get no more than the configuration gives them: no limits of their own, no other tenant's
//! counts, no request that a web page sent for them.

use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::support::client::{check, get, json};
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{
    Entry, RateLimitOverride,
};
use crate::support::protocol::envoy::service::ratelimit::v3::RateLimitRequest;
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use crate::support::protocol::tollgate::v1;
use crate::support::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;
use crate::support::{Answer, Replica, call, file};

const SETTINGS: &str = r#"
[store]
capacity = 2000

[default]
limit = "3/1d"

[tenants.acme]
tokens = ["the-token-of-acme"]

[tenants.globex]
tokens = ["the-token-of-globex"]

[authentication.jwt]
audience = "limits"

[[authentication.jwt.keys]]
algorithm = "HS256"
secret = "a secret that is long enough for HS256"
"#;

const GIVEN: &str = r#"{"key":"42","rate":1000,"interval":"1s"}"#;

fn json_web_token() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let claims = json!({
        "sub": "42", "aud": "limits", "tenant": "acme", "exp": now.unwrap().as_secs() + 600,
    });
    let key = EncodingKey::from_secret(b"a secret that is long enough for HS256");
    encode(&Header::default(), &claims, &key).unwrap()
}

async fn check_as(server: &Replica, token: &str, body: &str) -> Answer {
    let token = format!("Bearer {token}");
    let headers = [("authorization", token.as_str())];
    call(
        Method::POST,
        server.http(),
        "/check",
        &headers,
        body.to_owned(),
    )
    .await
}

#[tokio::test]
async fn user_cannot_choose_its_limit() {
    let settings = file(SETTINGS);
    let server = Replica::configured(settings.path(), &[]);
    let token = json_web_token();
    let answer = check_as(&server, &token, GIVEN).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{answer:?}");
    assert_eq!(
        json(&check_as(&server, &token, "{}").await)["limit"],
        json!(3)
    );
    let status = format!("Bearer {token}");
    let headers = [("authorization", status.as_str())];
    let path = "/status/42?rate=5&interval=1s";
    let answer = call(Method::GET, server.http(), path, &headers, "").await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{answer:?}");
    let tenant = check_as(&server, "the-token-of-acme", GIVEN).await;
    assert_eq!(json(&tenant)["limit"], json!(1_000));

    let all = ("AUTHENTICATION__CALLERS_MAY_GIVE_LIMITS", "all");
    let server = Replica::configured(settings.path(), &[all]);
    assert_eq!(
        json(&check_as(&server, &token, GIVEN).await)["limit"],
        json!(1_000)
    );

    let nobody = ("AUTHENTICATION__CALLERS_MAY_GIVE_LIMITS", "nobody");
    let server = Replica::configured(settings.path(), &[nobody]);
    let answer = check_as(&server, "the-token-of-acme", GIVEN).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn reachable_server_takes_no_limits_by_default() {
    for listener in ["LISTEN__HTTP", "LISTEN__GRPC"] {
        let server = Replica::start(&[(listener, "0.0.0.0:0")]);
        let http = ([127, 0, 0, 1], server.http().port()).into();
        let answer = check(http, GIVEN).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{listener}");
        assert_eq!(
            check(http, r#"{"key":"42"}"#).await.status(),
            StatusCode::OK
        );

        let url = format!("http://127.0.0.1:{}", server.grpc().port());
        let mut client = RateLimiterClient::connect(url).await.unwrap();
        let request = v1::CheckLimitRequest {
            key: "42".to_owned(),
            limit: Some(v1::Limit {
                rate: 5,
                interval: Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 0,
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let refused = client.check_limit(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{listener}");
    }
}

#[tokio::test]
async fn envoy_gives_limits_only_where_tenants_may() {
    let domain = "[[envoy.domains]]\ndomain = \"edge\"\n";
    let tokens = "[envoy]\ntokens = [\"the-token-of-envoy\"]\n";
    let ask = async |settings: &str, listener: &str, token: &str| {
        let settings = file(settings);
        let server = Replica::configured(settings.path(), &[("LISTEN__HTTP", listener)]);
        let client = RateLimitServiceClient::connect(server.grpc_url()).await;
        let descriptor = RateLimitDescriptor {
            entries: vec![Entry {
                key: "k".to_owned(),
                value: "v".to_owned(),
            }],
            limit: Some(RateLimitOverride {
                requests_per_unit: 5,
                unit: Unit::Day.into(),
            }),
            ..Default::default()
        };
        let mut request = Request::new(RateLimitRequest {
            domain: "edge".to_owned(),
            descriptors: vec![descriptor],
            ..Default::default()
        });
        let token = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        let answer = client.unwrap().should_rate_limit(request).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let (local, open) = ("127.0.0.1:0", "0.0.0.0:0");
    assert_eq!(ask(domain, local, "").await, Code::Ok);
    assert_eq!(ask(domain, open, "").await, Code::PermissionDenied);
    let known = format!("{tokens}{domain}");
    assert_eq!(ask(&known, open, "the-token-of-envoy").await, Code::Ok);
    let nobody = format!("{known}[authentication]\ncallers_may_give_limits = \"nobody\"\n");
    assert_eq!(
        ask(&nobody, open, "the-token-of-envoy").await,
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn body_without_json_content_type_is_refused() {
    let server = Replica::start(&[]);
    let post = async |kind: &str| {
        let headers = [("content-type", kind)];
        let headers = if kind.is_empty() { &[][..] } else { &headers };
        let answer = call(
            Method::POST,
            server.http(),
            "/check",
            headers,
            r#"{"key":"a"}"#,
        );
        answer.await.status()
    };
    // The types that a web page may send to another origin, and one that a browser reads as another.
    let simple = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
    ];
    for kind in simple {
        assert_eq!(
            post(kind).await,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{kind}"
        );
    }
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_eq!(post(kind).await, StatusCode::OK, "{kind}");
    }
}

#[tokio::test]
async fn given_limits_leave_metrics_bounded() {
    let server = Replica::start(&[]);
    for rate in 1..300 {
        let body = json!({"key": "k", "rate": rate, "interval": "1h"});
        check(server.http(), &body.to_string()).await;
    }
    check(server.http(), r#"{"key":"later"}"#).await;
    let metrics = get(server.http(), "/metrics").await;
    let mut rows = metrics.body().lines();
    let row = rows.find(|row| row.starts_with("rate_limit_allowed_total{"));
    assert_eq!(
        row,
        Some(r#"rate_limit_allowed_total{identity="key",policy="default"} 300"#)
    );
    assert!(!rows.any(|row| row.starts_with("rate_limit_allowed_total{")));
}

#[tokio::test]
async fn array_is_no_object() {
    let server = Replica::start(&[]);
    let answer = check(server.http(), r#"["k",null,1,null,null,null,null]"#).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        json(&answer)["detail"],
        json!("the body must be a JSON object")
    );
}

#[tokio::test]
async fn long_key_is_refused() {
    let server = Replica::start(&[]);
    let body = |length: usize| json!({"key": "k".repeat(length)}).to_string();
    assert_eq!(
        check(server.http(), &body(1_024)).await.status(),
        StatusCode::OK
    );
    let answer = check(server.http(), &body(1_025)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(json(&answer)["field"], json!("key"));
}

/// Makes this many checks, each of another key, on one connection.
async fn flood(server: &Replica, token: &str, body: impl Fn(usize) -> Value, count: usize) {
    let stream = TcpStream::connect(server.http()).await.unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    for number in 0..count {
        let request = hyper::Request::post("/check")
            .header("host", "server")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"));
        let request = request
            .body(Full::<Bytes>::from(body(number).to_string()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn tenant_cannot_evict_counts_of_another() {
    let settings = file(SETTINGS);
    let server = Replica::configured(settings.path(), &[]);
    let victim = r#"{"key":"victim","cost":3}"#;
    check_as(&server, "the-token-of-globex", victim).await;
    // Entries that have used their whole quota, which are the last to be evicted.
    let configured = |number| json!({"key": format!("k{number}"), "cost": 3});
    flood(&server, "the-token-of-acme", configured, 6_000).await;
    let given = |number| json!({"key": format!("k{number}"), "rate": 1, "interval": "3650d"});
    flood(&server, "the-token-of-acme", given, 6_000).await;
    let answer = check_as(&server, "the-token-of-globex", r#"{"key":"victim"}"#).await;
    assert_eq!(json(&answer)["allowed"], json!(false));
}
