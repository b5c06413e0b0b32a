//! `ShouldRateLimit`, called by a gRPC client instead of Envoy: which rule a descriptor has, the
//! response, and which requests and rules are refused.

use prost_types::value::Kind;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tonic::Code::InvalidArgument;
use tonic::transport::Channel;

use crate::support::grpc::{self, descriptor, envoy_request};
use crate::support::http::get;
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, rate_limit::Unit,
};
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use crate::support::protocol::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse,
};
use crate::support::protocol::envoy::r#type::v3::RateLimitUnit;
use crate::support::server::program;
use crate::support::{Redis, Server, file};

/// Rules that use every field. Windows of a year do not end during a test.
const RULES: &str = r#"---
domain: shop
descriptors:
  # A rule for one value, and a rule that counts every other value separately.
  - key: plan
    value: free
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: plan
    rate_limit: {unit: YEAR, requests_per_unit: 3}
  # Values that YAML would read as a number and a boolean.
  - key: version
    value: 007
    rate_limit: {unit: year, requests_per_unit: 7}
  - key: beta
    value: true
    rate_limit: {unit: year, requests_per_unit: 8}
  # Nested rules below one without a limit, and below one with a limit.
  - key: source
    value: proxy
    descriptors:
      - key: destination
        value: cart
        rate_limit: {unit: year, requests_per_unit: 4}
      - key: destination
        rate_limit: {unit: year, requests_per_unit: 5}
  - key: method
    rate_limit: {unit: year, requests_per_unit: 6}
    descriptors:
      - key: path
        value: /api/*/pay
        rate_limit: {unit: year, requests_per_unit: 1}
      - key: path
        value: /static/*
        share_threshold: true
        detailed_metric: true
        rate_limit: {unit: year, requests_per_unit: 2}
      - key: path
        value: /static/logo
        rate_limit: {unit: year, requests_per_unit: 9}
  - key: banned
    rate_limit: {unit: second, requests_per_unit: 0}
  - key: internal
    rate_limit: {unlimited: true}
  - key: trial
    shadow_mode: true
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: user
    value_to_metric: true
    rate_limit: {unit: year, requests_per_unit: 1, name: usual}
  - key: vip
    detailed_metric: true
    rate_limit:
      unit: year
      requests_per_unit: 3
      replaces:
        - name: usual
        - name: another
  - key: first
    quota_mode: true
    rate_limit: {unit: year, requests_per_unit: 1}
    metadata: {quota: {name: "1st", of: 2}, list: [1.5, yes, ~, "yes"]}
  - key: second
    quota_mode: true
    rate_limit: {unit: year, requests_per_unit: 2}
    metadata: {quota: {name: 2nd, also: {second: true}}, list: []}
  - key: large
    rate_limit: {unit: year, requests_per_unit: 4294967295}
  - key: nothing
"#;

/// A server with [`RULES`], and a client of it.
struct EnvoyClient {
    server: Server,
    client: RateLimitServiceClient<Channel>,
    _rules: NamedTempFile,
}

impl EnvoyClient {
    /// Starts a server with [`RULES`] and these settings.
    async fn start(settings: &[(&str, &str)]) -> Self {
        let rules = file(RULES);
        let files = format!("[{:?}]", rules.path());
        let mut all = vec![("ENVOY__FILES", &*files)];
        all.extend(settings);
        let server = Server::start(&all);
        let client = grpc::connect_envoy(server.grpc_url()).await;
        Self {
            server,
            client,
            _rules: rules,
        }
    }

    async fn send(&mut self, request: RateLimitRequest) -> RateLimitResponse {
        let response = self.client.should_rate_limit(request).await;
        response.unwrap().into_inner()
    }

    /// Sends a request that the server refuses, and returns the error message.
    async fn send_refused(&mut self, request: RateLimitRequest) -> String {
        let response = self.client.should_rate_limit(request).await;
        let status = response.expect_err("the request is refused");
        assert_eq!(status.code(), InvalidArgument, "{status:?}");
        status.message().to_owned()
    }

    /// Sends a request with these descriptors.
    async fn send_descriptors(&mut self, descriptors: &[&[(&str, &str)]]) -> RateLimitResponse {
        self.send(request(descriptors)).await
    }

    /// Returns whether the server allows a request with this descriptor alone.
    async fn is_allowed(&mut self, entries: &[(&str, &str)]) -> bool {
        let response = self.send_descriptors(&[entries]).await;
        assert_eq!(response.statuses.len(), 1);
        assert_eq!(response.overall_code, response.statuses[0].code);
        response.overall_code() == Code::Ok
    }

    /// Asserts that the server allows this number of requests, and denies the next one.
    async fn assert_limit(&mut self, entries: &[(&str, &str)], expected: u32) {
        for _ in 0..expected {
            assert!(self.is_allowed(entries).await, "{entries:?}");
        }
        assert!(!self.is_allowed(entries).await, "{entries:?}");
    }
}

/// Returns a request of the domain of [`RULES`].
fn request(descriptors: &[&[(&str, &str)]]) -> RateLimitRequest {
    let descriptors = descriptors.iter().map(|entries| descriptor(entries));
    envoy_request("shop", descriptors)
}

/// Returns whether no limit applies to the descriptor.
fn is_unlimited(status: &DescriptorStatus) -> bool {
    status.code() == Code::Ok && status.current_limit.is_none()
}

#[tokio::test]
async fn descriptor_gets_the_limit_of_its_rule() {
    let mut client = EnvoyClient::start(&[]).await;
    let limits: [(&[(&str, &str)], u32); 15] = [
        (&[("plan", "free")], 2),
        (&[("plan", "gold")], 3),
        (&[("plan", "silver")], 3),
        (&[("version", "007")], 7),
        (&[("beta", "true")], 8),
        (&[("source", "proxy"), ("destination", "cart")], 4),
        (&[("source", "proxy"), ("destination", "mail")], 5),
        (&[("source", "proxy"), ("destination", "")], 5),
        (&[("method", "GET")], 6),
        (&[("method", "GET"), ("path", "/api/1/pay")], 1),
        (&[("method", "GET"), ("path", "/api/2/pay")], 1),
        (&[("method", "PUT"), ("path", "/api/2/pay")], 1),
        (&[("method", "GET"), ("path", "/static/a")], 2),
        (&[("method", "GET"), ("path", "/static/logo")], 9),
        (&[("banned", "anyone")], 0),
    ];
    for (entries, limit) in limits {
        client.assert_limit(entries, limit).await;
    }
    // With `share_threshold`, the values that match the wildcard share one count.
    let same_wildcard = [("method", "GET"), ("path", "/static/b")];
    assert!(!client.is_allowed(&same_wildcard).await);

    let unlimited: [&[(&str, &str)]; 8] = [
        &[("plan", "free"), ("more", "than the rule has")],
        &[("source", "proxy")],
        &[("source", "another"), ("destination", "cart")],
        &[("destination", "cart"), ("source", "proxy")],
        &[("method", "GET"), ("path", "/other")],
        &[("Plan", "free")],
        &[("nothing", "at all")],
        &[],
    ];
    for entries in unlimited {
        let response = client.send_descriptors(&[entries]).await;
        assert!(
            is_unlimited(&response.statuses[0]),
            "{entries:?}: {response:?}"
        );
    }
    let response = client.send_descriptors(&[&[("internal", "a")]]).await;
    assert!(is_unlimited(&response.statuses[0]));
    assert_eq!(response.statuses[0].limit_remaining, u32::MAX);
    let other_domain = envoy_request("elsewhere", [descriptor(&[("banned", "anyone")])]);
    let response = client.send(other_domain).await;
    assert!(is_unlimited(&response.statuses[0]));
}

#[tokio::test]
async fn response_has_a_status_for_each_descriptor() {
    let mut client = EnvoyClient::start(&[]).await;
    let descriptors: [&[(&str, &str)]; 3] = [
        &[("plan", "gold")],
        &[("without", "rule")],
        &[("user", "alice")],
    ];
    let response = client.send_descriptors(&descriptors).await;
    assert_eq!(response.overall_code(), Code::Ok);
    assert!(
        response.response_headers_to_add.is_empty(),
        "`envoy.response_headers` is not set"
    );
    let [plan, without_rule, user] = &response.statuses[..] else {
        panic!("not three statuses: {response:?}");
    };
    let limit = plan.current_limit.as_ref().unwrap();
    assert_eq!(
        (limit.requests_per_unit, limit.unit(), &*limit.name),
        (3, Unit::Year, "")
    );
    assert_eq!(plan.limit_remaining, 2);
    let reset = plan.duration_until_reset.unwrap().seconds;
    assert!((0..=365 * 86_400).contains(&reset), "{reset}");
    assert!(is_unlimited(without_rule));
    let limit = user.current_limit.as_ref().unwrap();
    assert_eq!((&*limit.name, user.limit_remaining), ("usual", 0));

    // One descriptor over its limit denies the request. The other descriptors are still charged.
    let response = client.send_descriptors(&descriptors).await;
    assert_eq!(response.overall_code(), Code::OverLimit);
    let codes: Vec<_> = response
        .statuses
        .iter()
        .map(DescriptorStatus::code)
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::OverLimit]);
    assert_eq!(response.statuses[0].limit_remaining, 1);

    let banned = client.send_descriptors(&[&[("banned", "anyone")]]).await;
    let status = &banned.statuses[0];
    assert_eq!(
        (status.code(), status.limit_remaining),
        (Code::OverLimit, 0)
    );
    assert_eq!(status.duration_until_reset.unwrap().seconds, 1);
}

#[tokio::test]
async fn hits_that_do_not_fit_are_not_charged() {
    let mut client = EnvoyClient::start(&[]).await;
    // The limit is five.
    let mut request = request(&[&[("source", "proxy"), ("destination", "mail")]]);
    request.hits_addend = 3;
    let response = client.send(request.clone()).await;
    assert_eq!(response.statuses[0].limit_remaining, 2);
    let response = client.send(request.clone()).await;
    assert_eq!(response.overall_code(), Code::OverLimit);
    assert_eq!(response.statuses[0].limit_remaining, 0);
    // The two remaining hits are still there.
    request.hits_addend = 2;
    assert_eq!(client.send(request).await.overall_code(), Code::Ok);
}

#[tokio::test]
async fn hits_charged_afterwards_may_exceed_the_limit() {
    let mut client = EnvoyClient::start(&[]).await;
    // The limit is five. Requests without hits are allowed until more than five hits have been
    // charged.
    for charged in [&[3, 2, 1][..], &[3, 9]] {
        let destination = format!("{charged:?}");
        let mut request = request(&[&[("source", "proxy"), ("destination", &destination)]]);
        // The hits of a descriptor replace the hits of the request.
        request.hits_addend = 9;
        for hits in charged {
            request.descriptors[0].hits_addend = Some(0);
            let response = client.send(request.clone()).await;
            let code = response.overall_code();
            assert_eq!(code, Code::Ok, "before {hits} of {charged:?}");
            request.descriptors[0].hits_addend = Some(*hits);
            client.send(request.clone()).await;
        }
        request.descriptors[0].hits_addend = Some(0);
        let response = client.send(request).await;
        let code = response.overall_code();
        assert_eq!(code, Code::OverLimit, "after {charged:?}");
        assert_eq!(response.statuses[0].limit_remaining, 0);
    }
}

#[tokio::test]
async fn largest_limit_in_every_unit_is_accepted() {
    let units = [
        Unit::Second,
        Unit::Minute,
        Unit::Hour,
        Unit::Day,
        Unit::Week,
        Unit::Month,
        Unit::Year,
    ];
    let rules = units.iter().map(|unit| {
        let unit = unit.as_str_name();
        let limit = format!("{{ unit = \"{unit}\", requests_per_unit = {} }}", u32::MAX);
        format!("{{ key = \"{unit}\", rate_limit = {limit} }}")
    });
    let rules = rules.collect::<Vec<_>>().join(", ");
    let domains = format!("[{{ domain = \"large\", descriptors = [{rules}] }}]");
    let mut client = EnvoyClient::start(&[("ENVOY__DOMAINS", &*domains)]).await;
    for unit in units {
        let key = unit.as_str_name();
        let mut request = envoy_request("large", [descriptor(&[(key, "a")])]);
        let by_rule = client.send(request.clone()).await;
        request.descriptors[0].limit = Some(RateLimitOverride {
            requests_per_unit: u32::MAX,
            // A number, because Envoy's `RateLimitUnit` has no name for a week.
            unit: unit.into(),
        });
        request.descriptors[0].entries[0].value = "b".to_owned();
        let by_descriptor = client.send(request).await;
        for response in [by_rule, by_descriptor] {
            let status = &response.statuses[0];
            assert_eq!(status.code(), Code::Ok, "{key}");
            assert_eq!(status.limit_remaining, u32::MAX - 1, "{key}");
            assert_eq!(status.current_limit.as_ref().unwrap().unit(), unit);
        }
    }
}

#[tokio::test]
async fn hits_above_u32_exceed_every_limit() {
    let mut client = EnvoyClient::start(&[]).await;
    let with_hits = |user: &str, hits| {
        let mut request = request(&[&[("large", user)]]);
        request.descriptors[0].hits_addend = Some(hits);
        request
    };
    let largest = u64::from(u32::MAX);
    for (user, hits) in [("a", largest + 1), ("b", u64::MAX)] {
        let response = client.send(with_hits(user, hits)).await;
        let status = &response.statuses[0];
        assert_eq!(status.code(), Code::OverLimit, "{hits}");
        let limit = status.current_limit.as_ref().unwrap();
        assert_eq!(limit.requests_per_unit, u32::MAX);
        // The limit stays exceeded until the unit ends, as after any other number above the limit.
        let response = client.send(with_hits(user, 0)).await;
        assert_eq!(response.overall_code(), Code::OverLimit, "{hits}");
    }
    let response = client.send(with_hits("c", largest)).await;
    assert_eq!(response.overall_code(), Code::Ok);
    assert_eq!(response.statuses[0].limit_remaining, 0);
}

#[tokio::test]
async fn negative_hits_are_refused() {
    let mut client = EnvoyClient::start(&[]).await;
    let mut refund = request(&[&[("plan", "free")], &[("plan", "free")]]);
    refund.descriptors[1].is_negative_hits = true;
    for hits in [None, Some(0), Some(1)] {
        refund.descriptors[1].hits_addend = hits;
        let refusal = client.send_refused(refund.clone()).await;
        let expected = "`descriptors[1].is_negative_hits`: hits cannot be refunded";
        assert!(refusal.starts_with(expected), "{refusal}");
    }
    // No descriptor of a refused request is charged.
    client.assert_limit(&[("plan", "free")], 2).await;
}

#[tokio::test]
async fn descriptors_above_100_are_refused() {
    let mut client = EnvoyClient::start(&[]).await;
    let descriptor = descriptor(&[("plan", "gold")]);
    let mut request = request(&[]);
    request.descriptors = vec![descriptor.clone(); 101];
    let refusal = client.send_refused(request.clone()).await;
    let expected = "`descriptors`: must be at most 100, not 101";
    assert!(refusal.starts_with(expected), "{refusal}");
    request.descriptors.pop();
    let response = client.send(request).await;
    let is_allowed = |status: &&DescriptorStatus| status.code() == Code::Ok;
    assert_eq!(response.statuses.iter().filter(is_allowed).count(), 3);
}

#[tokio::test]
async fn long_values_are_counted_exactly() {
    let redis = Redis::start().await;
    let url = redis.url();
    let mut client = EnvoyClient::start(&[("STORE__URL", &*url), ("STORE__DEADLINE", "15s")]).await;
    let long = "x".repeat(5_000);
    for last in ["y", "z"] {
        let value = format!("{long}{last}");
        client.assert_limit(&[("plan", &value)], 3).await;
        client
            .assert_limit(&[("method", &value), ("path", "/api/1/pay")], 1)
            .await;
    }
    // Counts of long values take no more memory than others.
    let keys = redis.keys().await;
    assert_eq!(keys.len(), 8, "{keys:?}");
    assert!(keys.iter().all(|key| key.len() < 200), "{keys:?}");
}

#[tokio::test]
async fn limit_in_descriptor_replaces_the_rule() {
    let mut client = EnvoyClient::start(&[]).await;
    let mut given = request(&[&[("plan", "free")]]);
    let limit = |requests_per_unit, unit: RateLimitUnit| RateLimitOverride {
        requests_per_unit,
        unit: unit.into(),
    };
    given.descriptors[0].limit = Some(limit(5, RateLimitUnit::Month));
    for remaining in (0..5).rev() {
        let response = client.send(given.clone()).await;
        let status = &response.statuses[0];
        let limit = status.current_limit.as_ref().unwrap();
        assert_eq!((limit.requests_per_unit, limit.unit()), (5, Unit::Month));
        assert_eq!(status.limit_remaining, remaining);
    }
    let over = client.send(given.clone()).await;
    assert_eq!(over.overall_code(), Code::OverLimit);
    given.descriptors[0].limit = Some(limit(0, RateLimitUnit::Day));
    let over = client.send(given.clone()).await;
    assert_eq!(over.overall_code(), Code::OverLimit);
    given.domain = "elsewhere".to_owned();
    let response = client.send(given.clone()).await;
    assert!(is_unlimited(&response.statuses[0]));
    given.domain = "shop".to_owned();
    for unit in [0, 8] {
        given.descriptors[0].limit.as_mut().unwrap().unit = unit;
        let refusal = client.send_refused(given.clone()).await;
        assert!(refusal.contains("descriptors.limit.unit"), "{refusal}");
    }
}

#[tokio::test]
async fn request_without_domain_or_descriptors_is_refused() {
    let mut client = EnvoyClient::start(&[]).await;
    let without_domain = envoy_request("", [descriptor(&[])]);
    for (field, request) in [("domain", without_domain), ("descriptors", request(&[]))] {
        let refusal = client.send_refused(request).await;
        assert_eq!(refusal, format!("`{field}`: must not be empty"));
    }
}

#[tokio::test]
async fn shadow_mode_allows_requests_above_the_limit() {
    let mut client = EnvoyClient::start(&[]).await;
    for _ in 0..3 {
        let response = client.send_descriptors(&[&[("trial", "a")]]).await;
        let status = &response.statuses[0];
        assert_eq!(
            (response.overall_code(), status.code()),
            (Code::Ok, Code::Ok)
        );
        assert_eq!(status.limit_remaining, 0);
        assert!(status.current_limit.is_some());
    }
}

#[tokio::test]
async fn replaced_limit_is_not_charged() {
    let mut client = EnvoyClient::start(&[]).await;
    let both: [&[(&str, &str)]; 2] = [&[("user", "bob")], &[("vip", "bob")]];
    for _ in 0..3 {
        let response = client.send_descriptors(&both).await;
        assert_eq!(response.overall_code(), Code::Ok);
        assert!(is_unlimited(&response.statuses[0]));
    }
    let response = client.send_descriptors(&both).await;
    assert_eq!(response.overall_code(), Code::OverLimit);
    client.assert_limit(&[("user", "bob")], 1).await;
}

#[tokio::test]
async fn quota_mode_denies_when_all_limits_are_exceeded() {
    let mut client = EnvoyClient::start(&[]).await;
    let both: [&[(&str, &str)]; 2] = [&[("first", "a")], &[("second", "a")]];
    let response = client.send_descriptors(&both).await;
    assert_eq!(response.overall_code(), Code::Ok);
    let response = client.send_descriptors(&both).await;
    assert_eq!(response.overall_code(), Code::Ok);
    assert_eq!(response.statuses[0].code(), Code::OverLimit);
    let response = client.send_descriptors(&both).await;
    assert_eq!(response.overall_code(), Code::OverLimit);
}

#[tokio::test]
async fn metadata_of_rules_within_limits_is_merged() {
    let mut client = EnvoyClient::start(&[]).await;
    let both: [&[(&str, &str)]; 2] = [&[("first", "a")], &[("second", "a")]];
    let mut metadata = Vec::new();
    for _ in 0..3 {
        let response = client.send_descriptors(&both).await;
        metadata.push(response.dynamic_metadata.map(struct_to_json));
    }
    // If two rules have the same field, the value of the first rule is used.
    let first = json!({
        "quota": {"name": "1st", "of": 2.0, "also": {"second": true}},
        "list": [1.5, true, null, "yes"],
    });
    let second = json!({"quota": {"name": "2nd", "also": {"second": true}}, "list": []});
    let expected = |metadata| Some(json!({"metadata": metadata}));
    assert_eq!(metadata, [expected(first), expected(second), None]);
    let without_metadata = client.send_descriptors(&[&[("plan", "free")]]).await;
    assert_eq!(without_metadata.dynamic_metadata, None);
}

fn struct_to_json(table: prost_types::Struct) -> Value {
    let fields = table.fields.into_iter();
    fields
        .map(|(name, value)| (name, value_to_json(value)))
        .collect()
}

fn value_to_json(value: prost_types::Value) -> Value {
    match value.kind.unwrap() {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => number.into(),
        Kind::StringValue(text) => text.into(),
        Kind::BoolValue(boolean) => boolean.into(),
        Kind::StructValue(table) => struct_to_json(table),
        Kind::ListValue(list) => list.values.into_iter().map(value_to_json).collect(),
    }
}

#[tokio::test]
async fn response_headers_describe_all_limits() {
    let mut client = EnvoyClient::start(&[("ENVOY__RESPONSE_HEADERS", "true")]).await;
    let descriptors: [&[(&str, &str)]; 3] = [
        &[("plan", "gold")],
        &[("without", "rule")],
        &[("user", "alice")],
    ];
    let response = client.send_descriptors(&descriptors).await;
    let headers: Vec<_> = response
        .response_headers_to_add
        .iter()
        .map(|header| (&*header.key, &*header.value))
        .collect();
    let limit = "1, 3;w=31536000, 1;w=31536000;name=\"usual\"";
    assert_eq!(
        headers[..2],
        [("x-ratelimit-limit", limit), ("x-ratelimit-remaining", "0")]
    );
    assert_eq!(headers[2].0, "x-ratelimit-reset");
    let reset: u64 = headers[2].1.parse().unwrap();
    assert!(reset <= 365 * 86_400, "{reset}");
    let unlimited = client.send_descriptors(&[&[("without", "rule")]]).await;
    assert!(unlimited.response_headers_to_add.is_empty());
}

#[tokio::test]
async fn metrics_count_hits_by_rule_and_outcome() {
    let mut client = EnvoyClient::start(&[]).await;
    client.send_descriptors(&[&[("plan", "gold")]]).await;
    for _ in 0..2 {
        client.send_descriptors(&[&[("user", "alice")]]).await;
    }
    client.send_descriptors(&[&[("plan", "free")]]).await;
    client.send_descriptors(&[&[("vip", "carol")]]).await;
    for path in ["/static/a", "/static/b", "/api/7/pay"] {
        client
            .send_descriptors(&[&[("method", "GET"), ("path", path)]])
            .await;
    }
    for _ in 0..2 {
        client.send_descriptors(&[&[("trial", "a")]]).await;
    }
    let metrics = get(client.server.http(), "/metrics").await.into_body();
    for (rule, outcome, count) in [
        ("plan", "ok", 1),
        ("plan_free", "ok", 1),
        ("user_alice", "ok", 1),
        ("user_alice", "over_limit", 1),
        ("vip_carol", "ok", 1),
        ("method_GET.path_/static/*", "ok", 2),
        ("method.path_/api/*/pay", "ok", 1),
        ("trial", "ok", 1),
        ("trial", "shadow", 1),
    ] {
        let line = format!(
            "tollgate_server_envoy_hits_total{{domain=\"shop\",rule=\"{rule}\",outcome=\"{outcome}\"}} {count}"
        );
        assert!(
            metrics.lines().any(|other| other == line),
            "{line}:\n{metrics}"
        );
    }
}

/// The server's limit of series whose label contains a value of a request.
const MAX_SERIES: usize = 1_000;

#[tokio::test]
async fn labels_from_requests_are_bounded() {
    let mut client = EnvoyClient::start(&[]).await;
    let long = "x".repeat(300);
    client.send_descriptors(&[&[("vip", &long)]]).await;
    for batch in 0..=MAX_SERIES / 100 {
        let values: Vec<_> = (0..100).map(|one| format!("{batch}-{one}")).collect();
        let entries: Vec<_> = values.iter().map(|value| [("vip", &**value)]).collect();
        let descriptors: Vec<_> = entries.iter().map(|entries| &entries[..]).collect();
        client.send_descriptors(&descriptors).await;
    }
    // Rules whose label has no value of a request, and known labels, keep their series.
    client
        .send_descriptors(&[&[("plan", "free")], &[("vip", "0-0")]])
        .await;
    let metrics = get(client.server.http(), "/metrics").await.into_body();
    let hits = |rule: &str| {
        let series = format!("rule=\"{rule}\",outcome=\"ok\"}} ");
        let line = metrics.lines().find(|line| line.contains(&series));
        let number = line.and_then(|line| line.rsplit(' ').next());
        number.map(|number| number.parse().unwrap())
    };
    assert_eq!(metrics.matches("rule=\"vip_").count(), MAX_SERIES);
    assert_eq!(hits("other"), Some(101));
    assert_eq!(hits("vip_0-0"), Some(2));
    assert_eq!(hits("plan_free"), Some(1));
}

/// Returns the error of `validate` for these rules, or an empty text if they are valid.
fn validate(rules: &str) -> String {
    let rules = file(rules);
    let settings = file(&format!("[envoy]\nfiles = [{:?}]\n", rules.path()));
    let output = program().arg("validate").arg(settings.path()).output();
    let output = output.unwrap();
    match output.status.success() {
        true => String::new(),
        false => String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn values_of_envoy_ratelimit_are_accepted() {
    for rule in [
        "rate_limit: {unit: DAY, requests_per_unit: 0x10}",
        "rate_limit: {unit: Week, requests_per_unit: 1_000}",
        "rate_limit: {unit: day}",
        "rate_limit: {unlimited: Yes, unit: none, requests_per_unit: 1}",
        "rate_limit:",
        "shadow_mode: on",
        "value: 2026-01-01",
        "metadata: {since: 2026-01-01, of: {any: [kind]}}",
    ] {
        let rules = format!("domain: a\ndescriptors:\n- key: k\n  {rule}\n");
        assert_eq!(validate(&rules), "", "{rule}");
    }
}

#[test]
fn values_that_envoy_ratelimit_refuses_are_errors() {
    for (rule, error) in [
        ("rate_limit: {}", "`unit` is missing"),
        (
            "rate_limit: {unit: day, requests_per_unit: \"5\"}",
            "integer",
        ),
        ("rate_limit: {unit: day, requests_per_unit: 1.5}", "integer"),
        ("rate_limit: {unit: day, requests_per_unit: -1}", "integer"),
        ("rate_limit: {unit: day, requests_per_unit: 08}", "integer"),
        (
            "rate_limit: {unlimited: true, unit: day}",
            "cannot have a unit",
        ),
        ("shadow_mode: 7", "true or false"),
        ("quota_mode: \"true\"", "true or false"),
        ("metadata: text", "a table"),
        // Envoy ratelimit accepts these fields and ignores them.
        (
            "rate_limit: {unit: day, shadow_mode: true}",
            "no such field",
        ),
        ("name: usual", "no such field"),
        // Envoy ratelimit would compare this wildcard with key and value together.
        ("value: v\n- key: \"k*\"", "in a value only"),
    ] {
        let rules = format!("domain: a\ndescriptors:\n- key: k\n  {rule}\n");
        let output = validate(&rules);
        assert!(output.contains(error), "{rule}: {output}");
    }
}

/// In Envoy ratelimit, a leading zero makes a number octal, and a rule without a number denies all
/// requests.
#[tokio::test]
async fn numbers_mean_the_same_as_in_envoy_ratelimit() {
    let rules = file(
        "{domain: numbers, descriptors: [\
         {key: octal, rate_limit: {unit: year, requests_per_unit: 010}},\
         {key: none, rate_limit: {unit: year}}]}",
    );
    let files = format!("[{:?}]", rules.path());
    let mut client = EnvoyClient::start(&[("ENVOY__FILES", &*files)]).await;
    for (key, limit) in [("octal", 8), ("none", 0)] {
        let request = envoy_request("numbers", [descriptor(&[(key, "a")])]);
        let response = client.send(request).await;
        let current = response.statuses[0].current_limit.as_ref().unwrap();
        assert_eq!(current.requests_per_unit, limit, "{key}");
        let is_allowed = response.overall_code() == Code::Ok;
        assert_eq!(is_allowed, limit > 0, "{key}");
    }
}
