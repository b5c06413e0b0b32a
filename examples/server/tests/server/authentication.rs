//! Callers show who they are: a tenant by its token, a user by a JSON web token.

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::{Method, StatusCode};
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tonic::{Code, Request};

use crate::support::client::{self, Answer, header};
use crate::support::protocol::envoy::service::ratelimit::v3::RateLimitRequest;
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use crate::support::protocol::tollgate::v1;
use crate::support::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;
use crate::support::{Replica, call, file};

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
    # Of `token-of-tenant-acme`.
    "sha256:DIGEST",
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

fn settings() -> NamedTempFile {
    let settings = SETTINGS
        .replace(
            "DIGEST",
            "8775334329bfa1e0dbdb4ba844f37f3ff8bbdeff2dc55f61d69b8423b5eff21b",
        )
        .replace("RSA", include_str!("keys/rsa.public.pem"))
        .replace("EC", include_str!("keys/ec.public.pem"));
    file(&settings)
}

async fn check(server: &Replica, token: Option<&str>, body: &str) -> Answer {
    let header = token.map(|token| format!("Bearer {token}"));
    let headers = header.as_deref().map(|header| ("authorization", header));
    let headers: Vec<_> = headers.into_iter().collect();
    call(
        Method::POST,
        server.http(),
        "/check",
        &headers,
        body.to_owned(),
    )
    .await
}

/// The limit that was decided by.
async fn limit(server: &Replica, token: &str, body: &str) -> Value {
    let answer = check(server, Some(token), body).await;
    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
    client::json(&answer)["limit"].clone()
}

#[tokio::test]
async fn tokens_of_tenants() {
    let settings = settings();
    let server = Replica::configured(settings.path(), &[]);
    let ask = r#"{"key":"a"}"#;
    assert_eq!(limit(&server, "token-of-tenant-acme", ask).await, json!(50));
    assert_eq!(
        limit(&server, "another-of-tenant-acme", ask).await,
        json!(50)
    );
    assert_eq!(
        limit(&server, "token-of-tenant-globex", ask).await,
        json!(7)
    );
    // Whose limits depend on the key.
    let ask = r#"{"key":"user:42","tenant":"acme"}"#;
    assert_eq!(limit(&server, "token-of-tenant-acme", ask).await, json!(5));

    // Tenants never share counts.
    let body = r#"{"key":"b","rate":3,"interval":"1d"}"#;
    for token in ["token-of-tenant-acme", "token-of-tenant-globex"] {
        let said = client::json(&check(&server, Some(token), body).await);
        assert_eq!(said["remaining"], json!(2), "{token}");
    }

    let other = r#"{"key":"a","tenant":"globex"}"#;
    let answer = check(&server, Some("token-of-tenant-acme"), other).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(client::json(&answer)["field"], json!("tenant"));

    for token in [None, Some(""), Some("token-of-nobody"), Some("sha256:00")] {
        let answer = check(&server, token, ask).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token:?}");
        assert_eq!(header(&answer, "www-authenticate"), Some("Bearer"));
        // Nothing is told to strangers of what they have sent.
        let answer = check(&server, token, "{").await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token:?}");
    }
    let basic = [("authorization", "Basic token-of-tenant-acme")];
    let answer = call(Method::POST, server.http(), "/check", &basic, ask).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let answer = client::get(server.http(), "/status/a").await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    // These are for whoever runs it.
    for path in ["/health", "/ready", "/metrics"] {
        let answer = client::get(server.http(), path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
}

fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs() as i64 + seconds
}

fn claims() -> Value {
    json!({
        "sub": "42", "aud": "limits", "iss": "https://login.example",
        "exp": in_seconds(3_600), "tenant": "acme",
    })
}

fn hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

#[tokio::test]
async fn json_web_tokens() {
    let settings = settings();
    let server = Replica::configured(settings.path(), &[]);
    let rsa = EncodingKey::from_rsa_pem(include_bytes!("keys/rsa.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(include_bytes!("keys/ec.pem")).unwrap();
    let named = Header {
        kid: Some("rsa".to_owned()),
        ..Header::new(Algorithm::RS256)
    };
    let good = [
        hs256(&claims()),
        encode(&named, &claims(), &rsa).unwrap(),
        encode(&Header::new(Algorithm::ES256), &claims(), &ec).unwrap(),
    ];
    // All are of one user, who counts as one; a key that is given must be the user's.
    let bodies = [
        r#"{}"#,
        r#"{"key":"42"}"#,
        r#"{"key":"user:42","tenant":"acme"}"#,
    ];
    for (left, (token, body)) in [4, 3, 2].into_iter().zip(good.iter().zip(bodies)) {
        let answer = check(&server, Some(token), body).await;
        assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
        let said = client::json(&answer);
        assert_eq!(
            (&said["limit"], &said["remaining"]),
            (&json!(5), &json!(left))
        );
    }
    // Its tenant sees the same count.
    let path = "/status/user:42";
    let token = [("authorization", "Bearer token-of-tenant-acme")];
    let answer = call(Method::GET, server.http(), path, &token, "").await;
    assert_eq!(client::json(&answer)["remaining"], json!(2));
    // Without a tenant it is the default one's.
    let mut of_nobody = claims();
    of_nobody.as_object_mut().unwrap().remove("tenant");
    assert_eq!(limit(&server, &hs256(&of_nobody), "{}").await, json!(100));

    let forbidden = [r#"{"key":"43"}"#, r#"{"tenant":"globex"}"#];
    for body in forbidden {
        let answer = check(&server, Some(&good[0]), body).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{body}");
    }

    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let signed_otherwise =
        |header: &Header, key: &EncodingKey| encode(header, &claims(), key).unwrap();
    let other_secret = EncodingKey::from_secret(b"another secret that is long enough");
    // What a public key says must never be taken for a secret.
    let public_as_secret = EncodingKey::from_secret(include_bytes!("keys/rsa.public.pem"));
    let misnamed = Header {
        kid: Some("another".to_owned()),
        ..Header::new(Algorithm::RS256)
    };
    let unsigned = {
        let parts: Vec<_> = good[0].split('.').collect();
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{}.", parts[1])
    };
    let critical = {
        let header = Header {
            crit: Some(vec!["b64".to_owned()]),
            ..Header::default()
        };
        signed_otherwise(&header, &EncodingKey::from_secret(SECRET.as_bytes()))
    };
    let mut forged = good[0].clone();
    forged.pop();
    let bad = [
        ("expired", hs256(&with("exp", json!(in_seconds(-3_600))))),
        ("without an end", hs256(&without("exp"))),
        ("for somebody else", hs256(&with("aud", json!("another")))),
        ("for nobody", hs256(&without("aud"))),
        (
            "by somebody else",
            hs256(&with("iss", json!("https://else.example"))),
        ),
        ("by nobody", hs256(&without("iss"))),
        ("not yet", hs256(&with("nbf", json!(in_seconds(3_600))))),
        ("of nobody", hs256(&without("sub"))),
        ("of an empty one", hs256(&with("sub", json!("")))),
        ("of no tenant", hs256(&with("tenant", json!("a b")))),
        ("of another kind", hs256(&with("tenant", json!(7)))),
        (
            "another secret",
            signed_otherwise(&Header::default(), &other_secret),
        ),
        (
            "public as secret",
            signed_otherwise(&Header::default(), &public_as_secret),
        ),
        ("another key's name", signed_otherwise(&misnamed, &rsa)),
        (
            "another algorithm",
            signed_otherwise(&Header::new(Algorithm::RS512), &rsa),
        ),
        ("critical extension", critical),
        ("unsigned", unsigned),
        ("forged", forged),
    ];
    for (why, token) in bad {
        let answer = check(&server, Some(&token), "{}").await;
        assert_eq!(
            answer.status(),
            StatusCode::UNAUTHORIZED,
            "{why}: {answer:?}"
        );
    }
}

/// A token of this header and these claims, signed with the secret.
fn signed(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{claims}");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test]
async fn signed_but_malformed_json_web_tokens_are_refused() {
    const HEADER: &str = r#"{"alg":"HS256"}"#;
    let settings = settings();
    let server = Replica::configured(settings.path(), &[]);
    let good = claims().to_string();
    let with = |name: &str, value: &str| {
        let mut claims = claims();
        claims[name] = serde_json::from_str(value).unwrap();
        claims.to_string()
    };
    let twice = |claim: &str| format!("{{{claim},{}", &good[1..]);
    let deep = format!(r#""x":{}1{}"#, "[".repeat(20_000), "]".repeat(20_000));
    let answer = check(&server, Some(&signed(HEADER, &good)), "{}").await;
    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");

    let mut bad = Vec::new();
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
        bad.push((header.to_owned(), signed(header, &good)));
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
            bad.push((
                format!("{name}: {value}"),
                signed(HEADER, &with(name, value)),
            ));
        }
    }
    bad.push((
        "an expiry twice".to_owned(),
        signed(HEADER, &twice(r#""exp":1"#)),
    ));
    bad.push(("deep claims".to_owned(), signed(HEADER, &twice(&deep))));
    bad.push(("no claims".to_owned(), signed(HEADER, "[]")));
    bad.push(("padding".to_owned(), format!("{}=", signed(HEADER, &good))));
    bad.push((
        "four parts".to_owned(),
        format!("{}.x", signed(HEADER, &good)),
    ));
    for (why, token) in bad {
        let answer = check(&server, Some(&token), "{}").await;
        // Deep claims do not fit into the head of a request.
        let status = answer.status();
        let is_refused = status == StatusCode::UNAUTHORIZED
            || status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert!(is_refused, "{why}: {answer:?}");
    }
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    request
}

#[tokio::test]
async fn over_grpc() {
    let settings = settings();
    let server = Replica::configured(settings.path(), &[]);
    let mut client = RateLimiterClient::connect(server.grpc_url()).await.unwrap();
    let ask = v1::CheckLimitRequest {
        key: "a".into(),
        ..Default::default()
    };
    let status = client.check_limit(ask.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let response = client
        .check_limit(with("token-of-tenant-acme", ask.clone()))
        .await;
    assert_eq!(response.unwrap().into_inner().status.unwrap().limit, 50);
    let own = v1::CheckLimitRequest::default();
    let response = client.check_limit(with(&hs256(&claims()), own)).await;
    assert_eq!(response.unwrap().into_inner().status.unwrap().limit, 5);
    let other = client.check_limit(with(&hs256(&claims()), ask)).await;
    assert_eq!(other.unwrap_err().code(), Code::PermissionDenied);

    // Envoy has tokens of its own.
    let mut envoy = RateLimitServiceClient::connect(server.grpc_url())
        .await
        .unwrap();
    let ask = RateLimitRequest {
        domain: "edge".into(),
        descriptors: vec![Default::default()],
        hits_addend: 0,
    };
    for token in ["token-of-tenant-acme", "token-of-nobody"] {
        let status = envoy.should_rate_limit(with(token, ask.clone())).await;
        assert_eq!(status.unwrap_err().code(), Code::Unauthenticated, "{token}");
    }
    envoy
        .should_rate_limit(with("token-of-envoy-proxy", ask))
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let settings = settings();
    let server = Replica::configured(settings.path(), &[("LOG__FILTER", "trace")]);
    check(&server, Some("token-of-tenant-acme"), "{}").await;
    check(&server, Some(&hs256(&claims())), "{}").await;
    let metrics = client::get(server.http(), "/metrics").await;
    let shown = [server.log(), metrics.into_body()].concat();
    for secret in [SECRET, "token-of", "another-of", "redis://"] {
        assert!(!shown.contains(secret), "{secret}");
    }
}
