//! The options `exempt`, `exempt_networks` and `limits_for` of a layer: which requests have no limit.

#[path = "support/log.rs"]
mod log;
mod support;

use std::net::SocketAddr;

use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use tollgate::test_util::ProgrammableStore;
use tollgate::{
    ClientIp, ForwardingHeader, Identify, IdentifyError, Identity, IpNet, Limits, LimitsFor,
    PeerAddr, Quota, RateLimitLayer, UserId, UserOrIp,
};

use log::{logged, record};
use support::{Request, header, request, send, stores};

fn networks<const N: usize>(networks: [&str; N]) -> [IpNet; N] {
    networks.map(|network| network.parse().unwrap())
}

/// Returns a request from a peer, with these headers.
fn request_from(peer: &str, headers: &[(&str, &'static str)]) -> Request {
    let mut request = Request::default();
    let peer = SocketAddr::new(peer.parse().unwrap(), 443);
    request.extensions_mut().insert(PeerAddr(peer));
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    request
}

/// Returns whether a layer answers the request without limiting it.
async fn is_exempt(layer: &RateLimitLayer, request: Request) -> bool {
    let response = send(layer, request).await;
    let is_limited = header(&response, "x-ratelimit-limit").is_some();
    let is_allowed = response.status() == StatusCode::OK;
    assert!(is_allowed || is_limited, "{}", response.status());
    !is_limited
}

#[tokio::test(start_paused = true)]
async fn exempt_identity_is_not_charged() {
    for store in stores() {
        let alice = Identity::user("alice");
        let layer = RateLimitLayer::new(Quota::per_day(1), store.clone())
            .exempt(move |identity| *identity == alice);
        for _ in 0..3 {
            assert!(is_exempt(&layer, request("alice")).await);
        }
        assert_eq!(store.calls(), 0);
        assert!(!is_exempt(&layer, request("bob")).await);
        let denied = send(&layer, request("bob")).await;
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn exempt_identity_must_be_valid() {
    let layer = RateLimitLayer::new(Quota::per_day(1), ProgrammableStore::new()).exempt(|_| true);
    for unidentified in [Request::default(), request("")] {
        let response = send(&layer, unidentified).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

#[tokio::test(start_paused = true)]
async fn limits_for_may_return_no_limit() {
    for store in stores() {
        let three = Limits::from(Quota::per_day(3));
        let layer = RateLimitLayer::new(Quota::per_day(2), store.clone()).limits_for(
            move |_: &Parts, identity: &Identity| match identity.value().as_deref() {
                Some("alice") => LimitsFor::Unlimited,
                Some("bob") => three.clone().into(),
                _ => LimitsFor::Layer,
            },
        );
        assert!(is_exempt(&layer, request("alice")).await);
        assert_eq!(store.calls(), 0);
        for (user, limit) in [("bob", "3"), ("carol", "2")] {
            let response = send(&layer, request(user)).await;
            assert_eq!(header(&response, "x-ratelimit-limit"), Some(limit));
        }
    }
}

#[tokio::test]
async fn limits_for_accepts_limits_and_options() {
    let layer = RateLimitLayer::new(Quota::per_day(2), ProgrammableStore::new());
    let three = Limits::from(Quota::per_day(3));
    let always = layer.clone().limits_for({
        let three = three.clone();
        move |_, _| three.clone()
    });
    let for_bob = layer
        .limits_for(move |_, identity| (*identity == Identity::user("bob")).then(|| three.clone()));
    for (layer, user, limit) in [
        (&always, "alice", "3"),
        (&for_bob, "alice", "2"),
        (&for_bob, "bob", "3"),
    ] {
        let response = send(layer, request(user)).await;
        assert_eq!(header(&response, "x-ratelimit-limit"), Some(limit));
    }
}

/// How addresses are determined, the peer, the headers of its request, and whether the request is exempt.
type Case = (
    ClientIp,
    &'static str,
    &'static [(&'static str, &'static str)],
    bool,
);

#[tokio::test]
async fn exempt_network_exempts_clients_by_their_address() {
    const FORWARDED_FOR: &str = "x-forwarded-for";
    let peer = ClientIp::peer;
    let behind = |network: &str| ClientIp::behind([network.parse().unwrap()]).unwrap();
    let real_ip = ForwardingHeader::SingleValue("x-real-ip".parse().unwrap());
    let exempt = true;
    #[rustfmt::skip]
    let cases: [Case; 29] = [
        // Without proxies, by the peer's address.
        (peer(), "10.8.1.2", &[], exempt),
        (peer(), "::ffff:10.8.1.2", &[], exempt),
        (peer(), "2001:db8::7", &[], exempt),
        (peer(), "2001:db8::8", &[], false),
        (peer(), "203.0.113.7", &[], false),
        // A 6to4 address can be made up.
        (peer(), "2002:0a08:0102::1", &[], false),
        // A client may write any header.
        (peer(), "203.0.113.7", &[(FORWARDED_FOR, "10.8.1.2")], false),
        (behind("10.0.0.5/32"), "203.0.113.7", &[(FORWARDED_FOR, "10.8.1.2")], false),
        (behind("10.0.0.5/32"), "10.0.0.5", &[(FORWARDED_FOR, "10.8.1.2, 203.0.113.7")], false),
        // A proxy that is not trusted does not exempt its clients.
        (peer(), "10.8.1.2", &[(FORWARDED_FOR, "203.0.113.7")], false),
        (peer(), "10.8.1.2", &[("forwarded", "for=203.0.113.7")], false),
        (peer(), "10.8.1.2", &[("via", "1.1 proxy")], false),
        (peer(), "10.8.1.2", &[("x-forwarded-proto", "https")], false),
        (peer(), "10.8.1.2", &[("x-real-ip", "203.0.113.7")], false),
        (behind("10.0.0.5/32"), "10.8.1.2", &[(FORWARDED_FOR, "203.0.113.7")], false),
        (behind("10.0.0.5/32"), "10.8.1.2", &[(FORWARDED_FOR, "10.8.1.3")], false),
        // A trusted proxy reports the client.
        (behind("10.0.0.5/32"), "10.0.0.5", &[(FORWARDED_FOR, "10.8.1.2")], exempt),
        (behind("10.0.0.5/32"), "10.0.0.5", &[(FORWARDED_FOR, "::ffff:10.8.1.2")], exempt),
        (behind("10.8.0.5/32"), "10.8.0.5", &[(FORWARDED_FOR, "203.0.113.7")], false),
        (behind("10.8.0.5/32"), "10.8.0.5", &[(FORWARDED_FOR, "10.8.1.2")], exempt),
        (behind("10.8.0.5/32"), "10.8.0.5", &[], exempt),
        // The proxy's own address does not stand for a client that cannot be read.
        (behind("10.8.0.5/32"), "10.8.0.5", &[(FORWARDED_FOR, "203.0.113.7, unknown")], false),
        (behind("10.8.0.5/32"), "10.8.0.5", &[(FORWARDED_FOR, "")], false),
        (behind("10.8.0.0/16"), "10.8.0.5", &[(FORWARDED_FOR, "10.8.0.6")], false),
        (behind("10.8.0.5/32").header(real_ip), "10.8.0.5", &[(FORWARDED_FOR, "10.8.1.2")], false),
        (ClientIp::behind_hops(1), "10.8.0.5", &[], false),
        (ClientIp::behind_hops(1), "10.8.0.5", &[(FORWARDED_FOR, "203.0.113.7")], false),
        (ClientIp::behind_hops(1), "10.0.0.5", &[(FORWARDED_FOR, "10.8.1.2")], exempt),
        (ClientIp::behind_hops(2), "10.8.0.5", &[(FORWARDED_FOR, "10.8.1.2")], false),
    ];
    for (client_ip, peer, headers, expected) in cases {
        let layer = RateLimitLayer::new(Quota::per_day(1), ProgrammableStore::new())
            .exempt_networks(networks(["10.8.0.0/16", "2001:db8::7/128"]))
            .unwrap();
        for layer in [
            layer.clone().identify_by(client_ip.clone()),
            layer.identify_by(UserOrIp::new(client_ip.clone())),
        ] {
            let actual = is_exempt(&layer, request_from(peer, headers)).await;
            assert_eq!(actual, expected, "{client_ip:?} {peer} {headers:?}");
        }
    }
}

/// An identity of the application's own, with a `ClientIp`.
struct Everybody(ClientIp);

impl Identify for Everybody {
    fn identify(&self, _: &Parts) -> Result<Identity, IdentifyError> {
        Ok(Identity::user("everybody"))
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn exempt_network_uses_the_client_ip_of_identify() {
    let client_ip = || ClientIp::behind(networks(["10.0.0.5/32"])).unwrap();
    let layer = RateLimitLayer::new(Quota::per_day(9), ProgrammableStore::new());
    let layer = layer.exempt_networks(networks(["10.8.0.0/16"])).unwrap();
    let forwarded = || request_from("10.0.0.5", &[("x-forwarded-for", "10.8.1.2")]);
    let boxed: Box<dyn Identify> = Box::new(Everybody(client_ip()));
    for layer in [
        layer.clone().identify_by(Everybody(client_ip())),
        layer.clone().identify_by(std::sync::Arc::new(client_ip())),
        layer.clone().identify_by(boxed),
    ] {
        assert!(is_exempt(&layer, forwarded()).await);
    }
    // Of a closure nothing is known, so the peer counts.
    let closure = layer.identify_by(|_: &Parts| Ok(Identity::user("everybody")));
    assert!(!is_exempt(&closure, forwarded()).await);
    assert!(is_exempt(&closure, request_from("10.8.1.2", &[])).await);
}

#[tokio::test]
async fn user_in_exempt_network_is_exempt() {
    let layer = RateLimitLayer::new(Quota::per_day(1), ProgrammableStore::new());
    let layer = layer.exempt_networks(networks(["10.8.0.0/16"])).unwrap();
    for (peer, exempt) in [("10.8.1.2", true), ("203.0.113.7", false)] {
        let mut request = request_from(peer, &[]);
        request.extensions_mut().insert(UserId::new("alice"));
        assert_eq!(is_exempt(&layer, request).await, exempt);
    }
}

#[test]
fn exempt_network_in_mapped_form_is_an_error() {
    let layer = RateLimitLayer::new(Quota::per_day(1), ProgrammableStore::new());
    let error = layer
        .exempt_networks(networks(["::ffff:10.0.0.0/8"]))
        .unwrap_err();
    assert!(error.is_trusted_network());
    assert!(error.to_string().contains("write `10.0.0.0/8`"), "{error}");
}

#[tokio::test]
async fn untrusted_proxy_in_exempt_network_is_logged_once() {
    record();
    let layer = RateLimitLayer::new(Quota::per_day(9), ProgrammableStore::new())
        .scope("untrusted-proxy")
        .exempt_networks(networks(["10.8.0.0/16"]))
        .unwrap();
    let spoofed = request_from("203.0.113.7", &[("x-forwarded-for", "10.8.1.2")]);
    assert!(!is_exempt(&layer, spoofed).await);
    assert_eq!(logged("scope=\"untrusted-proxy\""), [""; 0]);
    for _ in 0..3 {
        let forwarded = request_from("10.8.1.2", &[("x-forwarded-for", "203.0.113.7")]);
        assert!(!is_exempt(&layer, forwarded).await);
    }
    let lines = logged("scope=\"untrusted-proxy\"");
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("WARN ") && line.contains("peer=10.8.1.2"),
        "{line}"
    );
}
