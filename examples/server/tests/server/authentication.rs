//! Callers prove who they are: a tenant by its token, a user by a JSON web token.

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::{Method, StatusCode};
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tonic::Code;

use crate::support::grpc::{self, check_request, descriptor, envoy_request, with_token};
use crate::support::http::{check_with_token, get, header, json_body};
use crate::support::protocol::tollgate::v1::CheckLimitRequest;
use crate::support::{Server, file, http};

const SECRET: &str = "a secret that is long enough for HS256";

const SETTINGS: &str = r#"
[default]
limit = "100/1d"

[tiers]
pro = "50/1d"

[tenants.acme]
tier = "pro"
tokens = [
    "another-of-tenant-acme",
    # The digest of `token-of-tenant-acme`.
    "sha256:8775334329bfa1e0dbdb4ba844f37f3ff8bbdeff2dc55f61d69b8423b5eff21b",
]

[tenants.acme.keys]
"user:42" = "5/1d"

[tenants.globex]
limit = "7/1d"
tokens = ["token-of-tenant-globex"]

[authentication.jwt]
audience = "limits"
issuer = "https://login.example"

[[authentication.jwt.keys]]
algorithm = "HS256"
secret = "a secret that is long enough for HS256"

[[authentication.jwt.keys]]
id = "rsa"
algorithm = "RS256"
public_key = '''RSA'''

[[authentication.jwt.keys]]
algorithm = "ES256"
public_key = '''EC'''

[envoy]
tokens = ["token-of-envoy-proxy"]

[[envoy.domains]]
domain = "edge"
"#;

const ACME: Option<&str> = Some("token-of-tenant-acme");

/// Returns the file with [`SETTINGS`] and the public keys.
fn settings() -> NamedTempFile {
    let settings = SETTINGS
        .replace("RSA", include_str!("keys/rsa.public.pem"))
        .replace("EC", include_str!("keys/ec.public.pem"));
    file(&settings)
}

/// Returns the limit that decides an authenticated check.
async fn limit(server: &Server, token: &str, body: &str) -> Value {
    let response = check_with_token(server.http(), Some(token), body).await;
    assert_eq!(response.status(), StatusCode::OK, "{response:?}");
    json_body(&response)["limit"].clone()
}

#[tokio::test]
async fn tenant_token_selects_the_tenant() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    for (token, expected) in [
        ("token-of-tenant-acme", 50),
        ("another-of-tenant-acme", 50),
        ("token-of-tenant-globex", 7),
    ] {
        let limit = limit(&server, token, r#"{"key":"a"}"#).await;
        assert_eq!(limit, json!(expected), "{token}");
    }
    let key_with_limit = r#"{"key":"user:42","tenant":"acme"}"#;
    let limit = limit(&server, "token-of-tenant-acme", key_with_limit).await;
    assert_eq!(limit, json!(5));

    // Tenants do not share counts.
    let body = r#"{"key":"b","rate":3,"interval":"1d"}"#;
    for token in ["token-of-tenant-acme", "token-of-tenant-globex"] {
        let response = check_with_token(server.http(), Some(token), body).await;
        assert_eq!(json_body(&response)["remaining"], json!(2), "{token}");
    }

    let other_tenant = r#"{"key":"a","tenant":"globex"}"#;
    let forbidden = check_with_token(server.http(), ACME, other_tenant).await;
    assert_eq!(forbidden.status(), StatusCode::FORBIDDEN);
    assert_eq!(json_body(&forbidden)["field"], json!("tenant"));
}

#[tokio::test]
async fn missing_or_unknown_token_is_unauthorized() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    let body = r#"{"key":"user:42","tenant":"acme"}"#;
    for token in [None, Some(""), Some("token-of-nobody"), Some("sha256:00")] {
        let response = check_with_token(server.http(), token, body).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{token:?}");
        assert_eq!(header(&response, "www-authenticate"), Some("Bearer"));
        // The response does not reveal that the body is invalid.
        let response = check_with_token(server.http(), token, "{").await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{token:?}");
    }
    let basic = [("authorization", "Basic token-of-tenant-acme")];
    let response = http::call(Method::POST, server.http(), "/check", &basic, body).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = get(server.http(), "/status/a").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn health_and_metrics_need_no_token() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    for path in ["/health", "/ready", "/metrics"] {
        let response = get(server.http(), path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}

/// Returns the Unix time in this number of seconds.
fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs() as i64 + seconds
}

/// Returns valid claims of the user `42` of the tenant `acme`.
fn claims() -> Value {
    json!({
        "sub": "42", "aud": "limits", "iss": "https://login.example",
        "exp": in_seconds(3_600), "tenant": "acme",
    })
}

fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn claims_without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Signs a token with [`SECRET`].
fn hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

fn rsa_key() -> EncodingKey {
    EncodingKey::from_rsa_pem(include_bytes!("keys/rsa.pem")).unwrap()
}

fn rs256_header(key_id: &str) -> Header {
    Header {
        kid: Some(key_id.to_owned()),
        ..Header::new(Algorithm::RS256)
    }
}

#[tokio::test]
async fn json_web_token_counts_as_its_user() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    let ec = EncodingKey::from_ec_pem(include_bytes!("keys/ec.pem")).unwrap();
    // Three tokens of one user, and three ways to name the user's key.
    let tokens = [
        hs256(&claims()),
        encode(&rs256_header("rsa"), &claims(), &rsa_key()).unwrap(),
        encode(&Header::new(Algorithm::ES256), &claims(), &ec).unwrap(),
    ];
    let bodies = [
        r#"{}"#,
        r#"{"key":"42"}"#,
        r#"{"key":"user:42","tenant":"acme"}"#,
    ];
    for (remaining, (token, body)) in [4, 3, 2].into_iter().zip(tokens.iter().zip(bodies)) {
        let response = check_with_token(server.http(), Some(token), body).await;
        assert_eq!(response.status(), StatusCode::OK, "{response:?}");
        let decision = json_body(&response);
        assert_eq!(
            (&decision["limit"], &decision["remaining"]),
            (&json!(5), &json!(remaining))
        );
    }
    // The tenant's token reads the same count.
    let tenant = [("authorization", "Bearer token-of-tenant-acme")];
    let path = "/status/user:42";
    let response = http::call(Method::GET, server.http(), path, &tenant, "").await;
    assert_eq!(json_body(&response)["remaining"], json!(2));
    // A user without a tenant belongs to the default tenant.
    let token = hs256(&claims_without("tenant"));
    assert_eq!(limit(&server, &token, "{}").await, json!(100));

    let refused = [
        (
            &tokens[0],
            r#"{"key":"43"}"#,
            "a JWT may check only `user:42`: omit `key`",
        ),
        (
            &tokens[0],
            r#"{"tenant":"globex"}"#,
            "the token is for tenant `acme`: omit `tenant`, or send that name",
        ),
        (
            &token,
            r#"{"tenant":"globex"}"#,
            "the token is for the default tenant: omit `tenant`",
        ),
    ];
    for (token, body, problem) in refused {
        let forbidden = check_with_token(server.http(), Some(token), body).await;
        assert_eq!(forbidden.status(), StatusCode::FORBIDDEN, "{body}");
        let detail = json_body(&forbidden)["detail"].to_string();
        assert!(detail.contains(problem), "{detail}");
    }
}

#[tokio::test]
async fn invalid_json_web_token_is_unauthorized() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    let with = |name: &str, value: Value| hs256(&claims_with(name, value));
    let without = |name: &str| hs256(&claims_without(name));
    let signed = |header: &Header, key: &EncodingKey| encode(header, &claims(), key).unwrap();
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let other_secret = EncodingKey::from_secret(b"another secret that is long enough");
    // The public key is no secret, so a token that uses it as an HMAC secret proves nothing.
    let public_as_secret = EncodingKey::from_secret(include_bytes!("keys/rsa.public.pem"));
    let rsa = rsa_key();
    let good = hs256(&claims());
    let unsigned = {
        let parts: Vec<_> = good.split('.').collect();
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{}.", parts[1])
    };
    let critical = Header {
        crit: Some(vec!["b64".to_owned()]),
        ..Header::default()
    };
    let mut truncated = good;
    truncated.pop();
    let invalid = [
        ("expired", with("exp", json!(in_seconds(-3_600)))),
        ("without an expiry", without("exp")),
        ("for another audience", with("aud", json!("another"))),
        ("without an audience", without("aud")),
        (
            "by another issuer",
            with("iss", json!("https://else.example")),
        ),
        ("without an issuer", without("iss")),
        ("not valid yet", with("nbf", json!(in_seconds(3_600)))),
        ("without a subject", without("sub")),
        ("with an empty subject", with("sub", json!(""))),
        (
            "with an impossible tenant name",
            with("tenant", json!("a b")),
        ),
        ("with a number as the tenant", with("tenant", json!(7))),
        (
            "signed with another secret",
            signed(&Header::default(), &other_secret),
        ),
        (
            "signed with the public key as the secret",
            signed(&Header::default(), &public_as_secret),
        ),
        (
            "with an unknown key ID",
            signed(&rs256_header("another"), &rsa),
        ),
        (
            "with another algorithm",
            signed(&Header::new(Algorithm::RS512), &rsa),
        ),
        ("with a critical extension", signed(&critical, &secret)),
        ("unsigned", unsigned),
        ("with a truncated signature", truncated),
    ];
    for (what, token) in invalid {
        let response = check_with_token(server.http(), Some(&token), "{}").await;
        assert_eq!(
            response.status(),
            StatusCode::UNAUTHORIZED,
            "{what}: {response:?}"
        );
    }
}

/// Returns a token with these texts as header and claims, signed with [`SECRET`]. The texts need
/// not be valid.
fn signed(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{claims}");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test]
async fn signed_but_malformed_json_web_token_is_refused() {
    const HEADER: &str = r#"{"alg":"HS256"}"#;
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    let good = claims().to_string();
    let with = |name: &str, value: &str| {
        claims_with(name, serde_json::from_str(value).unwrap()).to_string()
    };
    let with_first_claim = |claim: &str| format!("{{{claim},{}", &good[1..]);
    let deep = format!(r#""x":{}1{}"#, "[".repeat(20_000), "]".repeat(20_000));
    let response = check_with_token(server.http(), Some(&signed(HEADER, &good)), "{}").await;
    assert_eq!(response.status(), StatusCode::OK, "{response:?}");

    let mut malformed = Vec::new();
    let headers = [
        r#"{}"#,
        r#"{"alg":"none"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","crit":["exp2"],"exp2":1}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","kid":1}"#,
    ];
    for header in headers {
        malformed.push((header.to_owned(), signed(header, &good)));
    }
    let values = [
        (
            "exp",
            vec!["null", "\"never\"", "-1", "true", "[9999999999]"],
        ),
        ("nbf", vec!["[9999999999]", "9999999999.5", "1e308"]),
        (
            "aud",
            vec![
                "[]",
                "null",
                "{\"limits\":1}",
                "[[\"limits\"]]",
                "\"limits2\"",
            ],
        ),
        (
            "iss",
            vec!["\"https://login.example/\"", "[\"https://else.example\"]"],
        ),
        ("sub", vec!["42", "null", "[\"42\"]"]),
        ("tenant", vec!["null", "[\"acme\"]", "\"\"", "\"acme/x\""]),
    ];
    for (name, values) in values {
        for value in values {
            let token = signed(HEADER, &with(name, value));
            malformed.push((format!("{name}: {value}"), token));
        }
    }
    let good_token = signed(HEADER, &good);
    let others = [
        (
            "two expiries",
            signed(HEADER, &with_first_claim(r#""exp":1"#)),
        ),
        ("deep claims", signed(HEADER, &with_first_claim(&deep))),
        ("claims that are a list", signed(HEADER, "[]")),
        ("padding", format!("{good_token}=")),
        ("four parts", format!("{good_token}.x")),
    ];
    malformed.extend(others.map(|(what, token)| (what.to_owned(), token)));
    for (what, token) in malformed {
        let response = check_with_token(server.http(), Some(&token), "{}").await;
        // The token with deep claims exceeds the limit of a request's head.
        let is_refused = matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
        assert!(is_refused, "{what}: {response:?}");
    }
}

#[tokio::test]
async fn grpc_needs_the_same_tokens() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    let mut client = grpc::connect(server.grpc_url()).await;
    let status = client.check_limit(check_request("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let tenant = with_token("token-of-tenant-acme", check_request("a"));
    let response = client.check_limit(tenant).await.unwrap().into_inner();
    assert_eq!(response.status.unwrap().limit, 50);
    let token = hs256(&claims());
    let own_key = with_token(&token, CheckLimitRequest::default());
    let response = client.check_limit(own_key).await.unwrap().into_inner();
    assert_eq!(response.status.unwrap().limit, 5);
    let other_key = with_token(&token, check_request("a"));
    let status = client.check_limit(other_key).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn envoy_needs_its_own_token() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[]);
    let mut client = grpc::connect_envoy(server.grpc_url()).await;
    let request = envoy_request("edge", [descriptor(&[])]);
    for token in ["token-of-tenant-acme", "token-of-nobody"] {
        let request = with_token(token, request.clone());
        let status = client.should_rate_limit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{token}");
    }
    let request = with_token("token-of-envoy-proxy", request);
    client.should_rate_limit(request).await.unwrap();
}

#[tokio::test]
async fn log_and_metrics_contain_no_secret() {
    let settings = settings();
    let server = Server::with_config(settings.path(), &[("LOG__FILTER", "trace")]);
    check_with_token(server.http(), ACME, "{}").await;
    check_with_token(server.http(), Some(&hs256(&claims())), "{}").await;
    let metrics = get(server.http(), "/metrics").await;
    let shown = [server.log(), metrics.into_body()].concat();
    for secret in [SECRET, "token-of", "another-of", "redis://"] {
        assert!(!shown.contains(secret), "{secret}");
    }
}
