//! A real Envoy, whose rate limit filter asks the server, limits real HTTP traffic.
//!
//! Envoy is the program that `TOLLGATE_TEST_ENVOY` names, or else the one that `./tests/run`
//! installs.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use hyper::{Method, StatusCode};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;

use crate::support::envoy::Envoy;
use crate::support::http::{Response, header};
use crate::support::{Server, Wait, file, http};

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
  - key: pool
    rate_limit: {unit: year, requests_per_unit: 1}
    metadata: {pool: {name: fast}}
  - key: tokens
    rate_limit: {unit: year, requests_per_unit: 2}
";

/// The routes, with the descriptors that Envoy sends for each. The value of an entry is the header
/// `caller`.
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
- match: {prefix: /metadata}
  route:
    cluster: upstream
    rate_limits:
    - actions:
      - request_headers: {header_name: caller, descriptor_key: pool}
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

/// A filter that puts a limit into the metadata from which the route `/given` takes it.
const GIVEN_LIMIT_FILTER: &str = r#"
- name: envoy.filters.http.set_metadata
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config
    metadata:
    - metadata_namespace: limits
      value: {given: {requests_per_unit: 5, unit: YEAR}}
"#;

/// A filter that copies metadata of a rule into the response header `x-pool`.
const METADATA_FILTER: &str = r#"
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

/// An Envoy that asks a server, before a service that always says hello.
struct Edge {
    server: Option<Server>,
    envoy: Envoy,
    _rules: NamedTempFile,
}

impl Edge {
    /// Starts all three, with these options of Envoy's filter and these settings of the server.
    async fn start(filter_options: &str, settings: &[(&str, &str)]) -> Self {
        let upstream = start_upstream().await;
        let rules = file(RULES);
        let files = format!("[{:?}]", rules.path());
        let mut all = vec![("ENVOY__FILES", &*files)];
        all.extend(settings);
        let server = Server::start(&all);
        let envoy = Envoy::start(&configuration(filter_options, server.grpc(), upstream)).await;
        let edge = Self {
            server: Some(server),
            envoy,
            _rules: rules,
        };
        // Before Envoy has connected to the server, it lets all requests pass.
        let wait = Wait::until("Envoy is connected to the server");
        let server_counted_hits = async || {
            let server = edge.server.as_ref().unwrap();
            let metrics = http::get(server.http(), "/metrics").await;
            metrics.body().contains(r#"rule="caller""#)
        };
        while !server_counted_hits().await {
            edge.get("/flat", "first").await;
            wait.sleep().await;
        }
        edge
    }

    /// Sends a request through Envoy, with `caller` as the value of its descriptor.
    async fn get(&self, path: &str, caller: &str) -> Response {
        let headers = [("caller", caller)];
        http::call(Method::GET, self.envoy.address(), path, &headers, "").await
    }

    /// Sends `N` requests one after another, and returns the status of each.
    async fn statuses<const N: usize>(&self, path: &str, caller: &str) -> [u16; N] {
        let mut statuses = [0; N];
        for status in &mut statuses {
            *status = self.get(path, caller).await.status().as_u16();
        }
        statuses
    }
}

/// Starts the service to which Envoy forwards requests.
async fn start_upstream() -> SocketAddr {
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

/// Indents each line, to nest one YAML text in another.
fn indented(text: &str, by: usize) -> String {
    let indent = " ".repeat(by);
    let lines = text.trim().lines();
    lines.map(|line| format!("{indent}{line}\n")).collect()
}

/// Returns the configuration of Envoy.
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
{given_limit}          - name: envoy.filters.http.ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: edge
              # Long enough that the filter never gives up on a busy machine.
              timeout: 20s
{options}              rate_limit_service:
                transport_api_version: V3
                grpc_service: {{envoy_grpc: {{cluster_name: limits}}}}
{metadata}          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
{routes}  clusters:
{upstream}{limits}{http2}",
        given_limit = indented(GIVEN_LIMIT_FILTER, 10),
        metadata = indented(METADATA_FILTER, 10),
        options = indented(filter_options, 14),
        routes = indented(ROUTES, 14),
        upstream = cluster("upstream", upstream),
        limits = cluster("limits", server),
    )
}

#[tokio::test]
async fn envoy_limits_traffic_by_the_rules() {
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
    let reset = header(&first, "x-ratelimit-reset").unwrap();
    let reset: u64 = reset.parse().unwrap();
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

    // A request with two descriptors. The limit of the second one is reached first.
    let both = edge.get("/nested", "carol").await;
    let limits = "3, 4;w=31536000, 3;w=31536000";
    assert_eq!(header(&both, "x-ratelimit-limit"), Some(limits));
    assert_eq!(header(&both, "x-ratelimit-remaining"), Some("2"));
    assert_eq!(edge.statuses("/nested", "carol").await, [200, 200, 429]);

    // Each request costs four hits, and the limit is ten.
    assert_eq!(edge.statuses("/batch", "dave").await, [200, 200, 429]);
    // The rule allows one request, and the limit in the descriptor five.
    assert_eq!(
        edge.statuses("/given", "erin").await,
        [200, 200, 200, 200, 200, 429]
    );
    // Envoy charges three hits when a response is complete, and the limit is two.
    let wait = Wait::until("Envoy has charged the hits");
    assert_eq!(edge.statuses("/tokens", "grace").await, [200]);
    while edge.statuses("/tokens", "grace").await == [200] {
        wait.sleep().await;
    }
    assert_eq!(edge.statuses("/tokens", "grace").await, [429]);
    // Envoy receives the metadata of a rule unless the limit is exceeded.
    let allowed = edge.get("/metadata", "frank").await;
    assert_eq!(header(&allowed, "x-pool"), Some("fast"));
    let over = edge.get("/metadata", "frank").await;
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
async fn response_headers_of_the_server_reach_the_client() {
    let edge = Edge::start("", &[("ENVOY__RESPONSE_HEADERS", "true")]).await;
    for (status, remaining) in [(200, "1"), (200, "0"), (429, "0")] {
        let response = edge.get("/flat", "free").await;
        assert_eq!(response.status().as_u16(), status);
        let limit = header(&response, "x-ratelimit-limit");
        assert_eq!(limit, Some("2, 2;w=31536000;name=\"free\""));
        assert_eq!(header(&response, "x-ratelimit-remaining"), Some(remaining));
        assert!(header(&response, "x-ratelimit-reset").is_some());
    }
}

#[tokio::test]
async fn envoy_failure_mode_applies_to_errors() {
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
            let response = edge.get("/flat", "free").await;
            assert_eq!(response.status(), status, "{filter_options}");
        }
    }
}
