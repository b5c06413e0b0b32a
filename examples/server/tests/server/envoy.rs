//! A real Envoy, with its rate limit filter pointed at the server, limits real HTTP traffic.
//!
//! Envoy is the program in `TOLLGATE_TEST_ENVOY`, or else the one that `./tests/run` has installed.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use hyper::{Method, StatusCode};
use tokio::net::TcpListener;

use crate::support::client::{Answer, header};
use crate::support::envoy::Envoy;
use crate::support::{Replica, Wait, call, file};

const RULES: &str = "
domain: edge
descriptors:
  - key: caller
    value: free
    rate_limit: {unit: year, requests_per_unit: 2, name: free}
  - key: caller
    rate_limit: {unit: year, requests_per_unit: 3}
  - key: caller
    value: watched
    shadow_mode: true
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: path
    descriptors:
      - key: caller
        rate_limit: {unit: year, requests_per_unit: 4}
  - key: batch
    rate_limit: {unit: year, requests_per_unit: 10}
  - key: plan
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: told
    rate_limit: {unit: year, requests_per_unit: 1}
    metadata: {pool: {name: fast}}
  - key: tokens
    rate_limit: {unit: year, requests_per_unit: 2}
";

/// The routes, with the descriptors that Envoy sends for each. The header `caller` is their value.
const ROUTES: &str = r#"
- match: {prefix: /flat}
  route:
    cluster: upstream
    rate_limits:
    - actions:
      - request_headers: {header_name: caller, descriptor_key: caller}
- match: {prefix: /nested}
  route:
    cluster: upstream
    rate_limits:
    - actions:
      - generic_key: {descriptor_key: path, descriptor_value: nested}
      - request_headers: {header_name: caller, descriptor_key: caller}
    - actions:
      - request_headers: {header_name: caller, descriptor_key: caller}
- match: {prefix: /batch}
  route: {cluster: upstream}
  typed_per_filter_config:
    envoy.filters.http.ratelimit:
      "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
      rate_limits:
      - actions:
        - request_headers: {header_name: caller, descriptor_key: batch}
        hits_addend: {number: 4}
- match: {prefix: /given}
  route:
    cluster: upstream
    rate_limits:
    - actions:
      - request_headers: {header_name: caller, descriptor_key: plan}
      limit:
        dynamic_metadata:
          metadata_key: {key: limits, path: [{key: given}]}
- match: {prefix: /told}
  route:
    cluster: upstream
    rate_limits:
    - actions:
      - request_headers: {header_name: caller, descriptor_key: told}
- match: {prefix: /tokens}
  route: {cluster: upstream}
  typed_per_filter_config:
    envoy.filters.http.ratelimit:
      "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
      rate_limits:
      - actions:
        - request_headers: {header_name: caller, descriptor_key: tokens}
        hits_addend: {number: 0}
      - actions:
        - request_headers: {header_name: caller, descriptor_key: tokens}
        hits_addend: {number: 3}
        apply_on_stream_done: true
- match: {prefix: /refund}
  route: {cluster: upstream}
  typed_per_filter_config:
    envoy.filters.http.ratelimit:
      "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
      rate_limits:
      - actions:
        - request_headers: {header_name: caller, descriptor_key: caller}
        hits_addend: {number: 1, is_negative_hits: true}
- match: {prefix: /}
  route: {cluster: upstream}
"#;

/// Puts a limit into the metadata from which a route takes it.
const GIVEN: &str = r#"
- name: envoy.filters.http.set_metadata
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config
    metadata:
    - metadata_namespace: limits
      value: {given: {requests_per_unit: 5, unit: YEAR}}
"#;

/// Shows the metadata of a rule in a header.
const TOLD: &str = r#"
- name: envoy.filters.http.header_mutation
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
    mutations:
      response_mutations:
      - append:
          header:
            key: x-pool
            value: "%DYNAMIC_METADATA(envoy.filters.http.ratelimit:metadata:pool:name)%"
"#;

struct Edge {
    server: Option<Replica>,
    envoy: Envoy,
    _rules: tempfile::NamedTempFile,
}

impl Edge {
    async fn start(filter_options: &str, values: &[(&str, &str)]) -> Self {
        let upstream = upstream().await;
        let rules = file(RULES);
        let files = format!("[{:?}]", rules.path());
        let mut all = vec![("ENVOY__FILES", &*files)];
        all.extend(values);
        let server = Replica::start(&all);
        let envoy = Envoy::start(&configuration(filter_options, server.grpc(), upstream)).await;
        let edge = Self {
            server: Some(server),
            envoy,
            _rules: rules,
        };
        // Until Envoy is connected to the server, it lets requests through.
        let wait = Wait::until("Envoy is connected to the server");
        let hits = || async {
            let server = edge.server.as_ref().unwrap();
            let metrics = crate::support::client::get(server.http(), "/metrics").await;
            metrics.body().contains(r#"rule="caller""#)
        };
        while !hits().await {
            edge.get("/flat", "nobody").await;
            wait.sleep().await;
        }
        edge
    }

    async fn get(&self, path: &str, caller: &str) -> Answer {
        let headers = [("caller", caller)];
        call(Method::GET, self.envoy.address(), path, &headers, "").await
    }

    async fn statuses<const N: usize>(&self, path: &str, caller: &str) -> [u16; N] {
        let mut statuses = [0; N];
        for status in &mut statuses {
            *status = self.get(path, caller).await.status().as_u16();
        }
        statuses
    }
}

/// Starts the service to which Envoy forwards requests.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(get(async || "hello"));
    tokio::spawn(serve(listener, router));
    address
}

async fn serve(listener: TcpListener, router: Router) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let executor = hyper_util::rt::TokioExecutor::new();
            let builder = hyper_util::server::conn::auto::Builder::new(executor);
            let stream = hyper_util::rt::TokioIo::new(stream);
            let _ = builder.serve_connection(stream, service).await;
        });
    }
}

fn indented(text: &str, by: usize) -> String {
    let indent = " ".repeat(by);
    let lines = text.trim().lines();
    lines.map(|line| format!("{indent}{line}\n")).collect()
}

fn configuration(filter_options: &str, server: SocketAddr, upstream: SocketAddr) -> String {
    let cluster = |name: &str, address: SocketAddr| {
        format!(
            "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}
",
            address.port()
        )
    };
    let http2 = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";
    format!(
        "static_resources:
  listeners:
  - name: edge
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          http_filters:
{given}          - name: envoy.filters.http.ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: edge
              # Enough for a busy machine.
              timeout: 20s
{options}              rate_limit_service:
                transport_api_version: V3
                grpc_service: {{envoy_grpc: {{cluster_name: limits}}}}
{told}          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
{routes}  clusters:
{upstream}{limits}{http2}",
        given = indented(GIVEN, 10),
        told = indented(TOLD, 10),
        options = indented(filter_options, 14),
        routes = indented(ROUTES, 14),
        upstream = cluster("upstream", upstream),
        limits = cluster("limits", server),
    )
}

#[tokio::test]
async fn traffic_is_limited() {
    let edge = Edge::start("enable_x_ratelimit_headers: DRAFT_VERSION_03", &[]).await;
    // A rule with a value, and a rule without one.
    let first = edge.get("/flat", "free").await;
    assert_eq!(
        (first.status(), first.body().as_str()),
        (StatusCode::OK, "hello")
    );
    assert_eq!(
        header(&first, "x-ratelimit-limit"),
        Some("2, 2;w=31536000;name=\"free\"")
    );
    assert_eq!(header(&first, "x-ratelimit-remaining"), Some("1"));
    let reset: u64 = header(&first, "x-ratelimit-reset")
        .unwrap()
        .parse()
        .unwrap();
    assert!(reset <= 365 * 86_400, "{reset}");
    assert_eq!(edge.get("/flat", "free").await.status(), StatusCode::OK);
    let over = edge.get("/flat", "free").await;
    assert_eq!(over.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&over, "x-envoy-ratelimited"), Some("true"));
    assert_eq!(header(&over, "x-ratelimit-remaining"), Some("0"));
    assert_eq!(
        header(&over, "x-ratelimit-limit"),
        Some("2, 2;w=31536000;name=\"free\"")
    );
    assert_eq!(edge.statuses("/flat", "alice").await, [200, 200, 200, 429]);
    assert_eq!(edge.statuses("/flat", "bob").await, [200, 200, 200, 429]);

    // Two descriptors. The limit of the second one is reached first.
    let both = edge.get("/nested", "carol").await;
    let limits = "3, 4;w=31536000, 3;w=31536000";
    assert_eq!(header(&both, "x-ratelimit-limit"), Some(limits));
    assert_eq!(header(&both, "x-ratelimit-remaining"), Some("2"));
    assert_eq!(edge.statuses("/nested", "carol").await, [200, 200, 429]);

    // Four hits a request, of ten.
    assert_eq!(edge.statuses("/batch", "dave").await, [200, 200, 429]);
    // The rule allows one request, and the limit in the descriptor five.
    assert_eq!(
        edge.statuses("/given", "erin").await,
        [200, 200, 200, 200, 200, 429]
    );
    // A limit of two, of which Envoy charges three when the response is done.
    let wait = Wait::until("Envoy has charged the hits");
    assert_eq!(edge.statuses("/tokens", "grace").await, [200]);
    while edge.statuses("/tokens", "grace").await == [200] {
        wait.sleep().await;
    }
    assert_eq!(edge.statuses("/tokens", "grace").await, [429]);
    // The metadata of a rule, unless its limit is exceeded.
    let told = edge.get("/told", "frank").await;
    assert_eq!(header(&told, "x-pool"), Some("fast"));
    let over = edge.get("/told", "frank").await;
    assert_eq!(over.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_ne!(header(&over, "x-pool"), Some("fast"));
    assert_eq!(
        edge.statuses("/flat", "watched").await,
        [200, 200, 200],
        "in shadow mode"
    );
    assert_eq!(
        edge.statuses("/", "free").await,
        [200, 200, 200, 200],
        "without a limit"
    );
}

#[tokio::test]
async fn response_headers_of_the_server() {
    let edge = Edge::start("", &[("ENVOY__RESPONSE_HEADERS", "true")]).await;
    for (status, remaining) in [(200, "1"), (200, "0"), (429, "0")] {
        let answer = edge.get("/flat", "free").await;
        assert_eq!(answer.status().as_u16(), status);
        let limit = header(&answer, "x-ratelimit-limit");
        assert_eq!(limit, Some("2, 2;w=31536000;name=\"free\""));
        assert_eq!(header(&answer, "x-ratelimit-remaining"), Some(remaining));
        assert!(header(&answer, "x-ratelimit-reset").is_some());
    }
}

#[tokio::test]
async fn failure_mode_applies_to_errors() {
    for (filter_options, status) in [
        ("failure_mode_deny: false", StatusCode::OK),
        ("failure_mode_deny: true", StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let mut edge = Edge::start(filter_options, &[]).await;
        assert_eq!(edge.statuses("/flat", "free").await, [200, 200, 429]);
        // The server refuses refunds.
        let refund = edge.get("/refund", "free").await;
        assert_eq!(refund.status(), status, "{filter_options}");
        assert_eq!(edge.statuses("/flat", "free").await, [429]);
        // Kills the server.
        drop(edge.server.take());
        for _ in 0..3 {
            assert_eq!(
                edge.get("/flat", "free").await.status(),
                status,
                "{filter_options}"
            );
        }
    }
}
