//! Each user and each client address has a separate identity, and no client can take the identity
//! of another. A request without an identity is rejected, and the reason is logged.

#[path = "support/log.rs"]
mod log;
mod support;

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::connect_info::MockConnectInfo;
use axum::routing::get;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate::{
    Check, ClientIp, ForwardingHeader, Identify, IdentifyError, Identity, Kind, Limits, LocalStore,
    PeerAddr, Quota, RateLimitLayer, UserId, UserOrIp,
};
use tower::ServiceExt;

const KEY: Kind = Kind::new("key");

use log::{logged, record};
use support::{Request, grpc_call, header, request, send, text};

/// Returns a layer that allows one request per identity.
fn one_per_day() -> RateLimitLayer {
    RateLimitLayer::new(Quota::per_day(1), LocalStore::new())
}

/// Returns a request with this extension.
fn request_with<T: Clone + Send + Sync + 'static>(extension: T) -> Request {
    let mut request = Request::default();
    request.extensions_mut().insert(extension);
    request
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns a request from this peer address.
fn request_from(peer: &str) -> Request {
    request_with(PeerAddr(address(peer)))
}

/// Returns the text of the identity of a request.
fn identity(identify: &impl Identify, request: Request) -> String {
    let (parts, _) = request.into_parts();
    identify.identify(&parts).unwrap().to_string()
}

#[test]
fn user_id_takes_precedence_over_the_address() {
    let by_default = UserOrIp::default();
    let mut request = request_from("203.0.113.7:443");
    assert_eq!(identity(&by_default, request.clone()), "ip:203.0.113.7");
    request.extensions_mut().insert(UserId::new("42"));
    assert_eq!(identity(&by_default, request.clone()), "user:42");
    assert_eq!(identity(&ClientIp::peer(), request), "ip:203.0.113.7");
}

#[test]
fn address_is_that_of_the_connection() {
    let by_default = UserOrIp::default();
    let connected = ConnectInfo(address("192.0.2.1:1"));
    let mock = MockConnectInfo(address("192.0.2.2:2"));
    assert_eq!(
        identity(&by_default, request_with(connected)),
        "ip:192.0.2.1"
    );
    assert_eq!(identity(&by_default, request_with(mock)), "ip:192.0.2.2");

    // `PeerAddr` takes precedence over `ConnectInfo`, and that over `MockConnectInfo`.
    let mut request = request_with(mock);
    request.extensions_mut().insert(connected);
    assert_eq!(identity(&by_default, request.clone()), "ip:192.0.2.1");
    let explicit = PeerAddr(address("192.0.2.3:3"));
    request.extensions_mut().insert(explicit);
    assert_eq!(identity(&by_default, request), "ip:192.0.2.3");
}

#[tokio::test]
async fn each_user_and_address_has_a_separate_count() {
    let layer = one_per_day();
    for (peer, user, status) in [
        ("203.0.113.7:1", None, 200),
        ("203.0.113.7:2", None, 429),
        ("[::ffff:203.0.113.7]:3", None, 429),
        ("203.0.113.8:1", None, 200),
        ("[2001:db8::1]:1", None, 200),
        ("[2001:db8::2]:1", None, 429),
        ("[2001:db8:0:1::1]:1", None, 200),
        ("203.0.113.7:1", Some("alice"), 200),
        ("203.0.113.7:1", Some("bob"), 200),
        ("203.0.113.9:1", Some("bob"), 429),
        // A user id that looks like an address is not that address.
        ("203.0.113.9:1", Some("203.0.113.7"), 200),
        ("203.0.113.9:1", Some("203.0.113.10"), 200),
        ("203.0.113.10:1", None, 200),
    ] {
        let mut request = request_from(peer);
        if let Some(user) = user {
            request.extensions_mut().insert(UserId::new(user));
        }
        let response = send(&layer, request).await;
        assert_eq!(response.status(), status, "{peer} {user:?}");
    }
}

#[tokio::test]
async fn axum_router_provides_the_peer_address() {
    let app = Router::new()
        .route("/", get(async || "hello"))
        .layer(one_per_day())
        .layer(MockConnectInfo(address("192.0.2.1:1")));
    for status in [200, 429] {
        let Ok(response) = app.clone().oneshot(Request::default()).await;
        assert_eq!(response.status(), status);
    }
}

#[tokio::test]
async fn missing_peer_address_is_explained_in_response_and_log() {
    record();
    let layer = one_per_day().scope("no-peer");
    let app = Router::new().route("/", get(async || "hello")).layer(layer);
    for _ in 0..10 {
        let Ok(response) = app.clone().oneshot(Request::default()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let content_type = header(&response, "content-type");
        assert_eq!(content_type, Some("application/problem+json"));
        assert_eq!(response.headers().len(), 2, "{:?}", response.headers());
        let problem: Value = serde_json::from_str(&text(response).await).unwrap();
        let title = "Internal Server Error";
        let mut expected = json!({ "type": "about:blank", "title": title, "status": 500 });
        if cfg!(debug_assertions) {
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("MockConnectInfo"), "{detail}");
            expected["detail"] = detail.into();
        }
        assert_eq!(problem, expected);
    }
    let [line] = &logged("scope=\"no-peer\"")[..] else {
        panic!("not one line: {:?}", logged("scope=\"no-peer\""));
    };
    assert!(line.starts_with("ERROR "), "{line}");
    assert!(
        line.contains("into_make_service_with_connect_info"),
        "{line}"
    );
    assert!(line.contains("PeerAddr"), "{line}");

    let Ok(response) = app.oneshot(request_from("203.0.113.7:1")).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn only_debug_builds_send_the_reason_to_clients() {
    record();
    let layer = one_per_day()
        .scope("no-tenant")
        .identify_by(|_: &Parts| Err(IdentifyError::new("tenant table is empty")))
        .unidentified_status(StatusCode::FORBIDDEN);
    let call = grpc_call("application/grpc", Method::POST, Version::HTTP_2);
    for (request, status) in [(request("alice"), 403), (call, 200)] {
        let response = send(&layer, request).await;
        assert_eq!(response.status(), status);
        if status == 200 {
            assert_eq!(header(&response, "grpc-status"), Some("13"));
        }
        let headers = format!("{:?}", response.headers());
        let shown = format!("{headers} {}", text(response).await);
        assert_eq!(
            shown.contains("tenant table is empty"),
            cfg!(debug_assertions),
            "{shown}"
        );
    }
    let lines = logged("scope=\"no-tenant\"");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("reason=tenant table is empty"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn closure_can_identify_requests() {
    // The kind comes from the client and may be invalid: `?` converts that error.
    let layer = one_per_day().identify_by(|parts: &Parts| {
        let kind = parts
            .headers
            .get("kind")
            .ok_or(IdentifyError::new("no kind"))?;
        let kind = kind.to_str().map_err(|_| IdentifyError::new("odd kind"))?;
        Ok(Identity::new(&Kind::try_new(kind)?, "acme"))
    });
    for (kind, status) in [
        ("tenant", 200),
        ("tenant", 429),
        ("team", 200),
        ("not a kind", 500),
        ("", 500),
        ("é", 500),
    ] {
        let mut request = Request::default();
        let value = HeaderValue::from_bytes(kind.as_bytes()).unwrap();
        request.headers_mut().insert("kind", value);
        assert_eq!(send(&layer, request).await.status(), status, "{kind}");
    }
    assert_eq!(send(&layer, Request::default()).await.status(), 500);
}

#[tokio::test]
async fn every_unusual_user_id_has_a_separate_count() {
    let layer = one_per_day();
    let large = "x".repeat(1 << 20);
    let unusual = " |  |\n|\r\n|\0|a|A|a | a|a\n|a b|a%20b|{a}|{|}|{}|*|?|a:b|:a|a:|::|user:a|\
               ip:203.0.113.7|#|##|#a|é|e\u{301}|🦀|🦀🦀|\u{202e}a|%|\"|\\";
    let mut ids: Vec<_> = unusual.split('|').map(str::to_owned).collect();
    ids.extend([63, 64, 65, 66].map(|length| "y".repeat(length)));
    ids.extend([
        large.clone(),
        format!("{large}x"),
        format!("{large}🦀"),
        "🦀".repeat(1 << 18),
    ]);
    // Ids that equal the hashes of other ids.
    let values = ids.iter().map(|id| Identity::user(id).to_string());
    let values: Vec<_> = values
        .map(|value| value["user:".len()..].to_owned())
        .collect();
    assert!(values.iter().all(|value| value.len() <= 65));
    ids.extend(
        values
            .into_iter()
            .filter(|value| value.starts_with('#') && value.len() > 2),
    );

    for status in [200, 429] {
        for id in &ids {
            let response = send(&layer, request(id)).await;
            assert_eq!(response.status(), status, "{id:.40?}");
        }
    }
}

#[test]
fn readable_values_are_kept_and_others_hashed() {
    let longest = "y".repeat(64);
    for id in [
        "42",
        "alice@example.com",
        "",
        "*",
        "a:b",
        "a#",
        longest.as_str(),
    ] {
        assert_eq!(Identity::user(id).to_string(), format!("user:{id}"));
    }
    let too_long = "y".repeat(65);
    for id in ["a b", "a{", "}", "#a", "é", "\n", too_long.as_str()] {
        let shown = Identity::user(id).to_string();
        let digest = shown.strip_prefix("user:#").unwrap();
        assert_eq!(digest.len(), 64, "{shown}");
        assert!(
            digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{shown}"
        );
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[ab:#{} ]{0,4}", "[ab]{62,66}", "\\PC{0,3}", ".{0,20}"]
}

proptest! {
    #[test]
    fn identities_are_equal_only_if_kind_and_value_are(
        (one_kind, other_kind) in ("[a-c.]{1,3}", "[a-c.]{1,3}"),
        (one, other) in (value(), value()),
        swap in any::<bool>(),
    ) {
        // The same characters, divided differently into kind and value.
        let other = if swap { format!("{}{one}", &one_kind[1..]) } else { other };
        let kind_of = |name: &String| Kind::try_new(name).unwrap();
        let identity = Identity::new(&kind_of(&one_kind), &one);
        for (kind, value) in [(&one_kind, &one), (&other_kind, &one), (&one_kind, &other),
            (&other_kind, &other)]
        {
            let again = Identity::new(&kind_of(kind), value);
            let same = (kind, value) == (&one_kind, &one);
            prop_assert_eq!(identity == again, same);
            prop_assert_eq!(identity.to_string() == again.to_string(), same);
            prop_assert_eq!(again.kind(), kind);
        }
        let shown = identity.to_string();
        let printable = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        prop_assert!(shown.bytes().all(printable), "{}", shown);
        prop_assert!(shown.len() <= one_kind.len() + 66, "{}", shown);
    }
}

#[test]
fn secret_is_never_shown() {
    for secret in [
        "s3cr3t",
        "#s3cr3t",
        "s3cr3t with spaces",
        &"s3cr3t".repeat(1_000),
    ] {
        let identity = Identity::secret(&KEY, secret);
        let limits = Limits::from(Quota::per_day(1));
        let check = Check::new(&identity, &limits);
        for shown in [
            identity.to_string(),
            format!("{identity:?}"),
            format!("{identity:#?}"),
            format!("{check:?}"),
        ] {
            assert!(shown.contains("key:#"), "{shown}");
            assert!(!shown.contains("s3cr3t"), "{shown}");
        }
        assert_eq!(identity, Identity::secret(&KEY, secret));
        assert_ne!(identity, Identity::secret(&Kind::new("api-key"), secret));
        assert_ne!(identity, Identity::secret(&KEY, &format!("{secret} ")));
    }
    assert_ne!(Identity::secret(&Kind::USER, "42"), Identity::user("42"));
}

#[tokio::test]
async fn malformed_forwarding_headers_yield_client_or_proxy() {
    const SIZE: usize = 64 * 1024;
    let (client, proxy) = ("ip:203.0.113.7", "ip:10.0.0.5");
    let fill = |unit: &str| unit.repeat(SIZE / unit.len()).into_bytes();
    let append = |mut line: Vec<u8>, end: &str| {
        line.extend(end.bytes());
        line
    };
    let non_ascii: Vec<u8> = (0x80..=0xff).collect();
    let list = ForwardingHeader::XForwardedFor;
    let elements = ForwardingHeader::Forwarded;
    let single = ForwardingHeader::SingleValue("x-real-ip".parse().unwrap());
    for (read, line, expected) in [
        (&list, fill("1"), proxy),
        (&list, fill(","), proxy),
        (&list, fill(" "), proxy),
        (&list, fill("10.0.0.9,"), proxy),
        (&list, fill("10.0.0.9, 6.6.6.6 ,"), proxy),
        (&list, append(fill("6.6.6.6, "), "203.0.113.7"), client),
        (&list, append(fill(","), "203.0.113.7, 10.0.0.9"), client),
        (&list, non_ascii.clone(), proxy),
        (&list, append(non_ascii.clone(), ", 203.0.113.7"), client),
        (&list, [b"203.0.113.7, ", &non_ascii[..]].concat(), proxy),
        (&elements, fill("for=\""), proxy),
        (
            &elements,
            append(b"for=\"".into(), &"\\".repeat(SIZE)),
            proxy,
        ),
        (
            &elements,
            append(fill("for=6.6.6.6,"), "for=203.0.113.7"),
            client,
        ),
        (
            &elements,
            [b"for=203.0.113.7, for=", &non_ascii[..]].concat(),
            proxy,
        ),
        (&single, fill("1"), proxy),
        (&single, non_ascii.clone(), proxy),
        (&single, append(fill(" "), "203.0.113.7"), client),
    ] {
        let name = match read {
            ForwardingHeader::XForwardedFor => "x-forwarded-for",
            ForwardingHeader::Forwarded => "forwarded",
            _ => "x-real-ip",
        };
        let client_ip = ClientIp::behind(["10.0.0.0/8".parse().unwrap()]);
        let client_ip = client_ip.unwrap().header(read.clone());
        let identify = UserOrIp::new(client_ip);
        let layer = one_per_day().identify_by(identify.clone());
        let mut request = request_from("10.0.0.5:443");
        let line = HeaderValue::from_bytes(&line).unwrap();
        request.headers_mut().insert(name, line.clone());
        assert_eq!(
            identity(&identify, request.clone()),
            expected,
            "{name}: {line:.60?}"
        );

        assert_eq!(send(&layer, request.clone()).await.status(), 200);
        assert_eq!(send(&layer, request).await.status(), 429);
        // The request was counted for the expected identity alone.
        for other in [client, proxy] {
            let plain = request_from(&format!("{}:1", &other["ip:".len()..]));
            let status = if other == expected { 429 } else { 200 };
            assert_eq!(send(&layer, plain).await.status(), status);
        }
    }
}

#[tokio::test]
async fn empty_user_id_is_no_identity() {
    let (id, address) = (UserId::new(""), PeerAddr(address("203.0.113.7:1")));
    let mut request = request_with(id);
    request.extensions_mut().insert(address);
    assert_eq!(send(&one_per_day(), request).await.status(), 500);
}

#[tokio::test]
async fn empty_value_of_any_kind_is_no_identity() {
    let constructors: [fn() -> Identity; 4] = [
        || Identity::user(""),
        || Identity::new(&Kind::new("org"), ""),
        || Identity::secret(&KEY, ""),
        || Identity::new(&Kind::IP, ""),
    ];
    for make in constructors {
        let layer = one_per_day().identify_by(move |_: &Parts| Ok(make()));
        assert_eq!(
            send(&layer, Request::default()).await.status(),
            500,
            "{}",
            make()
        );
    }
    let layer = one_per_day().identify_by(|_: &Parts| Ok(Identity::secret(&KEY, " ")));
    assert_eq!(send(&layer, Request::default()).await.status(), 200);
}

#[tokio::test]
async fn each_layer_logs_a_missing_identity_once() {
    record();
    let base = one_per_day();
    send(&base.clone().scope("base"), Request::default()).await;
    for scope in ["first-of-base", "second-of-base"] {
        let layer = base.clone().scope(scope);
        for _ in 0..3 {
            send(&layer.clone(), Request::default()).await;
        }
        assert_eq!(logged(&format!("scope=\"{scope}\"")).len(), 1, "{scope}");
    }
}

#[test]
fn unix_socket_needs_no_peer_with_proxy_hops() {
    let mut request = Request::default();
    let list = HeaderValue::from_static("6.6.6.6, 203.0.113.7");
    request.headers_mut().insert("x-forwarded-for", list);
    let identify = |client_ip: ClientIp| {
        let (parts, _) = request.clone().into_parts();
        client_ip
            .identify(&parts)
            .map(|identity| identity.to_string())
    };
    assert_eq!(
        identify(ClientIp::behind_hops(1)).unwrap(),
        "ip:203.0.113.7"
    );
    assert_eq!(identify(ClientIp::behind_hops(2)).unwrap(), "ip:6.6.6.6");
    for client_ip in [
        ClientIp::behind_hops(0),
        ClientIp::behind_hops(3),
        ClientIp::behind(["0.0.0.0/0".parse().unwrap()]).unwrap(),
    ] {
        let reason = identify(client_ip).unwrap_err().to_string();
        assert!(reason.contains("Unix socket"), "{reason}");
    }
}
