//! Callers get no more than the configuration gives them: no limits of their own choice, no access
//! to another tenant's counts, and no requests that a web page sends on their behalf.

use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, StatusCode};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tonic::Code;

use crate::support::grpc::{self, check_request, descriptor, envoy_request, with_token};
use crate::support::http::{check, check_with_token, connect_http1, get, json_body};
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use crate::support::protocol::tollgate::v1;
use crate::support::{Server, file, http};

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

const ACME: Option<&str> = Some("the-token-of-acme");
const GLOBEX: Option<&str> = Some("the-token-of-globex");

const CHECK_WITH_LIMIT: &str = r#"{"key":"42","rate":1000,"interval":"1s"}"#;

/// Returns a JSON web token of the user `42` of the tenant `acme`.
fn user_token() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let claims = json!({
        "sub": "42", "aud": "limits", "tenant": "acme", "exp": now.unwrap().as_secs() + 600,
    });
    let key = EncodingKey::from_secret(b"a secret that is long enough for HS256");
    encode(&Header::default(), &claims, &key).unwrap()
}

#[tokio::test]
async fn user_cannot_choose_its_limit() {
    let settings = file(SETTINGS);
    let server = Server::with_config(settings.path(), &[]);
    let token = user_token();
    let user = Some(&*token);
    let refused = check_with_token(server.http(), user, CHECK_WITH_LIMIT).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{refused:?}");
    let configured = check_with_token(server.http(), user, "{}").await;
    assert_eq!(json_body(&configured)["limit"], json!(3));
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", &*authorization)];
    let path = "/status/42?rate=5&interval=1s";
    let refused = http::call(Method::GET, server.http(), path, &headers, "").await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{refused:?}");
    let tenant = check_with_token(server.http(), ACME, CHECK_WITH_LIMIT).await;
    assert_eq!(json_body(&tenant)["limit"], json!(1_000));

    let all = ("AUTHENTICATION__CALLERS_MAY_GIVE_LIMITS", "all");
    let server = Server::with_config(settings.path(), &[all]);
    let allowed = check_with_token(server.http(), user, CHECK_WITH_LIMIT).await;
    assert_eq!(json_body(&allowed)["limit"], json!(1_000));

    let nobody = ("AUTHENTICATION__CALLERS_MAY_GIVE_LIMITS", "nobody");
    let server = Server::with_config(settings.path(), &[nobody]);
    let refused = check_with_token(server.http(), ACME, CHECK_WITH_LIMIT).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn public_listener_refuses_limits_in_requests() {
    for listener in ["LISTEN__HTTP", "LISTEN__GRPC"] {
        let server = Server::start(&[(listener, "0.0.0.0:0")]);
        let address = ([127, 0, 0, 1], server.http().port()).into();
        let refused = check(address, CHECK_WITH_LIMIT).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{listener}");
        let allowed = check(address, r#"{"key":"42"}"#).await;
        assert_eq!(allowed.status(), StatusCode::OK);

        let url = format!("http://127.0.0.1:{}", server.grpc().port());
        let mut client = grpc::connect(url).await;
        let second = prost_types::Duration {
            seconds: 1,
            nanos: 0,
        };
        let request = v1::CheckLimitRequest {
            limit: Some(v1::Limit {
                rate: 5,
                interval: Some(second),
                ..Default::default()
            }),
            ..check_request("42")
        };
        let refused = client.check_limit(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{listener}");
    }
}

#[tokio::test]
async fn envoy_may_give_limits_only_if_tenants_may() {
    let domain = "[[envoy.domains]]\ndomain = \"edge\"\n";
    let tokens = "[envoy]\ntokens = [\"the-token-of-envoy\"]\n";
    let code_of_limit_in_descriptor = async |settings: &str, listener: &str, token: &str| {
        let settings = file(settings);
        let server = Server::with_config(settings.path(), &[("LISTEN__HTTP", listener)]);
        let mut client = grpc::connect_envoy(server.grpc_url()).await;
        let mut descriptor = descriptor(&[("k", "v")]);
        descriptor.limit = Some(RateLimitOverride {
            requests_per_unit: 5,
            unit: Unit::Day.into(),
        });
        let request = with_token(token, envoy_request("edge", [descriptor]));
        let response = client.should_rate_limit(request).await;
        response.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let (loopback, public) = ("127.0.0.1:0", "0.0.0.0:0");
    let code = code_of_limit_in_descriptor(domain, loopback, "").await;
    assert_eq!(code, Code::Ok);
    let code = code_of_limit_in_descriptor(domain, public, "").await;
    assert_eq!(code, Code::PermissionDenied);
    let authenticated = format!("{tokens}{domain}");
    let code = code_of_limit_in_descriptor(&authenticated, public, "the-token-of-envoy").await;
    assert_eq!(code, Code::Ok);
    let nobody = "[authentication]\ncallers_may_give_limits = \"nobody\"\n";
    let nobody = format!("{authenticated}{nobody}");
    let code = code_of_limit_in_descriptor(&nobody, public, "the-token-of-envoy").await;
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn body_without_json_content_type_is_refused() {
    let server = Server::start(&[]);
    let post = async |content_type: &str| {
        let headers = [("content-type", content_type)];
        let body = r#"{"key":"a"}"#;
        let response = http::call(Method::POST, server.http(), "/check", &headers, body).await;
        response.status()
    };
    // A web page may send the first three types to another origin without a CORS preflight. A
    // browser reads the last one as `text/plain`.
    let refused = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
    ];
    for content_type in refused {
        let status = post(content_type).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type}");
    }
    for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_eq!(post(content_type).await, StatusCode::OK, "{content_type}");
    }
}

#[tokio::test]
async fn limits_in_requests_add_no_metric_series() {
    let server = Server::start(&[]);
    for rate in 1..300 {
        let body = json!({"key": "k", "rate": rate, "interval": "1h"});
        check(server.http(), &body.to_string()).await;
    }
    check(server.http(), r#"{"key":"later"}"#).await;
    let metrics = get(server.http(), "/metrics").await;
    let lines = metrics.body().lines();
    let series: Vec<_> = lines
        .filter(|line| line.starts_with("rate_limit_allowed_total{"))
        .collect();
    let expected = r#"rate_limit_allowed_total{identity="key",policy="default"} 300"#;
    assert_eq!(series, [expected]);
}

#[tokio::test]
async fn json_array_as_body_is_refused() {
    let server = Server::start(&[]);
    let response = check(server.http(), r#"["k",null,1,null,null,null,null]"#).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let expected = json!("the body must be a JSON object");
    assert_eq!(json_body(&response)["detail"], expected);
}

#[tokio::test]
async fn long_key_is_refused() {
    let server = Server::start(&[]);
    let body = |length: usize| json!({"key": "k".repeat(length)}).to_string();
    let longest = check(server.http(), &body(1_024)).await;
    assert_eq!(longest.status(), StatusCode::OK);
    let refused = check(server.http(), &body(1_025)).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(json_body(&refused)["field"], json!("key"));
}

/// Makes this many checks, each of a different key, on one connection.
async fn flood(server: &Server, token: &str, body: impl Fn(usize) -> Value, count: usize) {
    let mut sender = connect_http1(server.http()).await;
    for number in 0..count {
        let body: Full<Bytes> = body(number).to_string().into();
        let request = hyper::Request::post("/check")
            .header("host", "server")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .body(body)
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn tenant_cannot_evict_entries_of_another() {
    let settings = file(SETTINGS);
    let server = Server::with_config(settings.path(), &[]);
    let whole_quota = r#"{"key":"victim","cost":3}"#;
    check_with_token(server.http(), GLOBEX, whole_quota).await;
    // Entries that have used their whole quota, which are the last to be evicted.
    let configured = |number| json!({"key": format!("k{number}"), "cost": 3});
    flood(&server, "the-token-of-acme", configured, 6_000).await;
    let given = |number| json!({"key": format!("k{number}"), "rate": 1, "interval": "3650d"});
    flood(&server, "the-token-of-acme", given, 6_000).await;
    let response = check_with_token(server.http(), GLOBEX, r#"{"key":"victim"}"#).await;
    assert_eq!(json_body(&response)["allowed"], json!(false));
}
