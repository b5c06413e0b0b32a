//! `ShouldRateLimit`, called by a gRPC client: the rule of a descriptor, the response, and requests
//! that are refused.

use prost_types::value::Kind;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tonic::Code::InvalidArgument;
use tonic::transport::Channel;

use crate::support::client::get;
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{
    Entry, RateLimitOverride,
};
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, rate_limit::Unit,
};
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use crate::support::protocol::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse,
};
use crate::support::protocol::envoy::r#type::v3::RateLimitUnit;
use crate::support::replica::program;
use crate::support::{Replica, Server, file};

/// Rules that use every field. Windows of a year do not end during a test.
const RULES: &str = r#"---
domain: shop
descriptors:
  # A value, and a count of its own for every other value.
  - key: plan
    value: free
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: plan
    rate_limit: {unit: YEAR, requests_per_unit: 3}
  # Values that look like something else in YAML.
  - key: version
    value: 007
    rate_limit: {unit: year, requests_per_unit: 7}
  - key: beta
    value: true
    rate_limit: {unit: year, requests_per_unit: 8}
  # Nested, with and without a limit on the way.
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

/// A server with the rules, and a client of it.
struct Asker {
    server: Replica,
    client: RateLimitServiceClient<Channel>,
    _rules: NamedTempFile,
}

impl Asker {
    async fn start(values: &[(&str, &str)]) -> Self {
        let rules = file(RULES);
        let files = format!("[{:?}]", rules.path());
        let mut all = vec![("ENVOY__FILES", &*files)];
        all.extend(values);
        let server = Replica::start(&all);
        let client = RateLimitServiceClient::connect(server.grpc_url()).await;
        Self {
            server,
            client: client.unwrap(),
            _rules: rules,
        }
    }

    async fn send(&mut self, request: RateLimitRequest) -> RateLimitResponse {
        let response = self.client.should_rate_limit(request).await;
        response.unwrap().into_inner()
    }

    /// The error of a request that is refused.
    async fn refusal(&mut self, request: RateLimitRequest) -> String {
        let response = self.client.should_rate_limit(request).await;
        let status = response.expect_err("the request is refused");
        assert_eq!(status.code(), InvalidArgument, "{status:?}");
        status.message().to_owned()
    }

    /// Sends several descriptors in one request.
    async fn ask(&mut self, descriptors: &[&[(&str, &str)]]) -> RateLimitResponse {
        self.send(request(descriptors)).await
    }

    /// Whether a request with this descriptor alone is allowed.
    async fn allows(&mut self, entries: &[(&str, &str)]) -> bool {
        let response = self.ask(&[entries]).await;
        assert_eq!(response.statuses.len(), 1);
        assert_eq!(response.overall_code, response.statuses[0].code);
        response.overall_code() == Code::Ok
    }

    /// Asserts that this number of requests is allowed, and the next one denied.
    async fn admits(&mut self, entries: &[(&str, &str)], expected: u32) {
        for _ in 0..expected {
            assert!(self.allows(entries).await, "{entries:?}");
        }
        assert!(!self.allows(entries).await, "{entries:?}");
    }
}

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |&(key, value): &(&str, &str)| Entry {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    RateLimitDescriptor {
        entries: entries.iter().map(entry).collect(),
        ..Default::default()
    }
}

fn request(descriptors: &[&[(&str, &str)]]) -> RateLimitRequest {
    RateLimitRequest {
        domain: "shop".to_owned(),
        descriptors: descriptors
            .iter()
            .map(|entries| descriptor(entries))
            .collect(),
        hits_addend: 0,
    }
}

fn is_unlimited(status: &DescriptorStatus) -> bool {
    status.code() == Code::Ok && status.current_limit.is_none()
}

#[tokio::test]
async fn descriptors_find_their_rules() {
    let mut asker = Asker::start(&[]).await;
    asker.admits(&[("plan", "free")], 2).await;
    asker.admits(&[("plan", "gold")], 3).await;
    asker.admits(&[("plan", "silver")], 3).await;
    asker.admits(&[("version", "007")], 7).await;
    asker.admits(&[("beta", "true")], 8).await;
    asker
        .admits(&[("source", "proxy"), ("destination", "cart")], 4)
        .await;
    asker
        .admits(&[("source", "proxy"), ("destination", "mail")], 5)
        .await;
    asker
        .admits(&[("source", "proxy"), ("destination", "")], 5)
        .await;
    asker.admits(&[("method", "GET")], 6).await;
    asker
        .admits(&[("method", "GET"), ("path", "/api/1/pay")], 1)
        .await;
    asker
        .admits(&[("method", "GET"), ("path", "/api/2/pay")], 1)
        .await;
    asker
        .admits(&[("method", "PUT"), ("path", "/api/2/pay")], 1)
        .await;
    // One count for all values that match the wildcard, except for a value with a rule of its own.
    asker
        .admits(&[("method", "GET"), ("path", "/static/a")], 2)
        .await;
    assert!(
        !asker
            .allows(&[("method", "GET"), ("path", "/static/b")])
            .await
    );
    asker
        .admits(&[("method", "GET"), ("path", "/static/logo")], 9)
        .await;
    asker.admits(&[("banned", "anyone")], 0).await;

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
        let response = asker.ask(&[entries]).await;
        assert!(
            is_unlimited(&response.statuses[0]),
            "{entries:?}: {response:?}"
        );
    }
    let response = asker.ask(&[&[("internal", "a")]]).await;
    assert!(is_unlimited(&response.statuses[0]));
    assert_eq!(response.statuses[0].limit_remaining, u32::MAX);
    let elsewhere = RateLimitRequest {
        domain: "elsewhere".to_owned(),
        ..request(&[&[("banned", "anyone")]])
    };
    assert!(is_unlimited(&asker.send(elsewhere).await.statuses[0]));
}

#[tokio::test]
async fn responses() {
    let mut asker = Asker::start(&[]).await;
    let descriptors: [&[(&str, &str)]; 3] = [
        &[("plan", "gold")],
        &[("nobody", "knows")],
        &[("user", "alice")],
    ];
    let response = asker.ask(&descriptors).await;
    assert_eq!(response.overall_code(), Code::Ok);
    assert!(
        response.response_headers_to_add.is_empty(),
        "`envoy.response_headers` is not set"
    );
    let [plan, nobody, user] = &response.statuses[..] else {
        panic!("one for each, in order: {response:?}");
    };
    let limit = plan.current_limit.as_ref().unwrap();
    assert_eq!(
        (limit.requests_per_unit, limit.unit(), &*limit.name),
        (3, Unit::Year, "")
    );
    assert_eq!(plan.limit_remaining, 2);
    let left = plan.duration_until_reset.unwrap().seconds;
    assert!((0..=365 * 86_400).contains(&left), "{left}");
    assert!(is_unlimited(nobody));
    let limit = user.current_limit.as_ref().unwrap();
    assert_eq!((&*limit.name, user.limit_remaining), ("usual", 0));

    // One descriptor over its limit denies the request. The rest of the descriptors are still charged.
    let response = asker.ask(&descriptors).await;
    assert_eq!(response.overall_code(), Code::OverLimit);
    let codes: Vec<_> = response
        .statuses
        .iter()
        .map(DescriptorStatus::code)
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::OverLimit]);
    assert_eq!(response.statuses[0].limit_remaining, 1);

    let banned = asker.ask(&[&[("banned", "anyone")]]).await;
    let status = &banned.statuses[0];
    assert_eq!(
        (status.code(), status.limit_remaining),
        (Code::OverLimit, 0)
    );
    assert_eq!(status.duration_until_reset.unwrap().seconds, 1);
}

#[tokio::test]
async fn hits() {
    let mut asker = Asker::start(&[]).await;
    let mut five = request(&[&[("source", "proxy"), ("destination", "mail")]]);
    five.hits_addend = 3;
    let response = asker.send(five.clone()).await;
    assert_eq!(response.statuses[0].limit_remaining, 2);
    let response = asker.send(five.clone()).await;
    assert_eq!(response.overall_code(), Code::OverLimit);
    assert_eq!(response.statuses[0].limit_remaining, 0);
    // Hits that do not fit are not charged, so fewer hits may still fit.
    five.hits_addend = 2;
    assert_eq!(asker.send(five).await.overall_code(), Code::Ok);
}

#[tokio::test]
async fn hits_that_are_charged_afterwards() {
    let mut asker = Asker::start(&[]).await;
    // A limit of five. Requests with no hits are allowed until more than five hits have been charged.
    for told in [&[3, 2, 1][..], &[3, 9]] {
        let destination = format!("{told:?}");
        let mut request = request(&[&[("source", "proxy"), ("destination", &destination)]]);
        // The descriptor's number replaces this one.
        request.hits_addend = 9;
        for hits in told {
            request.descriptors[0].hits_addend = Some(0);
            let asked = asker.send(request.clone()).await;
            assert_eq!(asked.overall_code(), Code::Ok, "before {hits} of {told:?}");
            request.descriptors[0].hits_addend = Some(*hits);
            asker.send(request.clone()).await;
        }
        request.descriptors[0].hits_addend = Some(0);
        let asked = asker.send(request).await;
        assert_eq!(asked.overall_code(), Code::OverLimit, "after {told:?}");
        assert_eq!(asked.statuses[0].limit_remaining, 0);
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
    let mut asker = Asker::start(&[("ENVOY__DOMAINS", &*domains)]).await;
    for unit in units {
        let key = unit.as_str_name();
        let mut request = RateLimitRequest {
            domain: "large".to_owned(),
            ..request(&[&[(key, "a")]])
        };
        let of_rule = asker.send(request.clone()).await;
        request.descriptors[0].limit = Some(RateLimitOverride {
            requests_per_unit: u32::MAX,
            // As a number, since Envoy's enumeration has no name for a week.
            unit: unit.into(),
        });
        request.descriptors[0].entries[0].value = "b".to_owned();
        let of_descriptor = asker.send(request).await;
        for response in [of_rule, of_descriptor] {
            let status = &response.statuses[0];
            assert_eq!(status.code(), Code::Ok, "{key}");
            assert_eq!(status.limit_remaining, u32::MAX - 1, "{key}");
            assert_eq!(status.current_limit.as_ref().unwrap().unit(), unit);
        }
    }
}

#[tokio::test]
async fn hits_above_u32_exceed_every_limit() {
    let mut asker = Asker::start(&[]).await;
    let ask = |user: &str, hits| {
        let mut request = request(&[&[("large", user)]]);
        request.descriptors[0].hits_addend = Some(hits);
        request
    };
    let largest = u64::from(u32::MAX);
    for (user, hits) in [("a", largest + 1), ("b", u64::MAX)] {
        let response = asker.send(ask(user, hits)).await;
        let status = &response.statuses[0];
        assert_eq!(status.code(), Code::OverLimit, "{hits}");
        let limit = status.current_limit.as_ref().unwrap();
        assert_eq!(limit.requests_per_unit, u32::MAX);
        // Until the unit ends, as after any other number that exceeds the limit.
        let response = asker.send(ask(user, 0)).await;
        assert_eq!(response.overall_code(), Code::OverLimit, "{hits}");
    }
    let response = asker.send(ask("c", largest)).await;
    assert_eq!(response.overall_code(), Code::Ok);
    assert_eq!(response.statuses[0].limit_remaining, 0);
}

#[tokio::test]
async fn negative_hits_are_refused() {
    let mut asker = Asker::start(&[]).await;
    let mut refund = request(&[&[("plan", "free")], &[("plan", "free")]]);
    refund.descriptors[1].is_negative_hits = true;
    for hits in [None, Some(0), Some(1)] {
        refund.descriptors[1].hits_addend = hits;
        let refusal = asker.refusal(refund.clone()).await;
        let expected = "`descriptors[1].is_negative_hits`: hits cannot be refunded";
        assert!(refusal.starts_with(expected), "{refusal}");
    }
    // No descriptor of a refused request is charged.
    asker.admits(&[("plan", "free")], 2).await;
}

#[tokio::test]
async fn descriptors_above_100_are_refused() {
    let mut asker = Asker::start(&[]).await;
    let descriptor = descriptor(&[("plan", "gold")]);
    let mut request = request(&[]);
    request.descriptors = vec![descriptor.clone(); 101];
    let refusal = asker.refusal(request.clone()).await;
    let expected = "`descriptors`: must be at most 100, not 101";
    assert!(refusal.starts_with(expected), "{refusal}");
    request.descriptors.pop();
    let response = asker.send(request).await;
    let is_allowed = |status: &&DescriptorStatus| status.code() == Code::Ok;
    assert_eq!(response.statuses.iter().filter(is_allowed).count(), 3);
}

#[tokio::test]
async fn long_values_are_counted_exactly() {
    let redis = Server::start().await;
    let url = redis.url();
    let mut asker = Asker::start(&[("STORE__URL", &*url), ("STORE__DEADLINE", "15s")]).await;
    let long = "x".repeat(5_000);
    for last in ["y", "z"] {
        let value = format!("{long}{last}");
        asker.admits(&[("plan", &value)], 3).await;
        asker
            .admits(&[("method", &value), ("path", "/api/1/pay")], 1)
            .await;
    }
    // Counts of long values take no more memory than others.
    let keys = redis.keys().await;
    assert_eq!(keys.len(), 8, "{keys:?}");
    assert!(keys.iter().all(|key| key.len() < 200), "{keys:?}");
}

#[tokio::test]
async fn limits_given_by_the_caller() {
    let mut asker = Asker::start(&[]).await;
    let mut given = request(&[&[("plan", "free")]]);
    let limit = |requests_per_unit, unit: RateLimitUnit| RateLimitOverride {
        requests_per_unit,
        unit: unit.into(),
    };
    given.descriptors[0].limit = Some(limit(5, RateLimitUnit::Month));
    for remaining in (0..5).rev() {
        let response = asker.send(given.clone()).await;
        let status = &response.statuses[0];
        let limit = status.current_limit.as_ref().unwrap();
        assert_eq!((limit.requests_per_unit, limit.unit()), (5, Unit::Month));
        assert_eq!(status.limit_remaining, remaining);
    }
    let over = asker.send(given.clone()).await;
    assert_eq!(over.overall_code(), Code::OverLimit);
    given.descriptors[0].limit = Some(limit(0, RateLimitUnit::Day));
    assert_eq!(
        asker.send(given.clone()).await.overall_code(),
        Code::OverLimit
    );
    given.domain = "elsewhere".to_owned();
    assert!(is_unlimited(&asker.send(given.clone()).await.statuses[0]));
    given.domain = "shop".to_owned();
    for unit in [0, 8] {
        given.descriptors[0].limit.as_mut().unwrap().unit = unit;
        let refusal = asker.refusal(given.clone()).await;
        assert!(refusal.contains("descriptors.limit.unit"), "{refusal}");
    }
}

#[tokio::test]
async fn incomplete_requests_are_refused() {
    let mut asker = Asker::start(&[]).await;
    let without_domain = RateLimitRequest {
        domain: String::new(),
        ..request(&[&[]])
    };
    for (field, request) in [("domain", without_domain), ("descriptors", request(&[]))] {
        let refusal = asker.refusal(request).await;
        assert_eq!(refusal, format!("`{field}`: must not be empty"));
    }
}

#[tokio::test]
async fn modes() {
    let mut asker = Asker::start(&[]).await;
    for remaining in [0, 0, 0] {
        let response = asker.ask(&[&[("trial", "a")]]).await;
        let status = &response.statuses[0];
        assert_eq!(
            (response.overall_code(), status.code()),
            (Code::Ok, Code::Ok)
        );
        assert_eq!(status.limit_remaining, remaining);
        assert!(status.current_limit.is_some());
    }
    // A replaced limit is not charged.
    let both: [&[(&str, &str)]; 2] = [&[("user", "bob")], &[("vip", "bob")]];
    for _ in 0..3 {
        let response = asker.ask(&both).await;
        assert_eq!(response.overall_code(), Code::Ok);
        assert!(is_unlimited(&response.statuses[0]));
    }
    assert_eq!(asker.ask(&both).await.overall_code(), Code::OverLimit);
    asker.admits(&[("user", "bob")], 1).await;
    // In quota mode, one limit that is not exceeded is enough.
    let both: [&[(&str, &str)]; 2] = [&[("first", "a")], &[("second", "a")]];
    assert_eq!(asker.ask(&both).await.overall_code(), Code::Ok);
    let response = asker.ask(&both).await;
    assert_eq!(response.overall_code(), Code::Ok);
    assert_eq!(response.statuses[0].code(), Code::OverLimit);
    assert_eq!(asker.ask(&both).await.overall_code(), Code::OverLimit);
}

#[tokio::test]
async fn metadata() {
    let mut asker = Asker::start(&[]).await;
    let both: [&[(&str, &str)]; 2] = [&[("first", "a")], &[("second", "a")]];
    let mut metadata = Vec::new();
    for _ in 0..3 {
        let response = asker.ask(&both).await;
        metadata.push(response.dynamic_metadata.map(json));
    }
    // Merged from the rules whose limits are not exceeded. The first rule's value of a field counts.
    let first = json!({
        "quota": {"name": "1st", "of": 2.0, "also": {"second": true}},
        "list": [1.5, true, null, "yes"],
    });
    let second = json!({"quota": {"name": "2nd", "also": {"second": true}}, "list": []});
    let expected = |metadata| Some(json!({"metadata": metadata}));
    assert_eq!(metadata, [expected(first), expected(second), None]);
    assert_eq!(
        asker.ask(&[&[("plan", "free")]]).await.dynamic_metadata,
        None
    );
}

fn json(table: prost_types::Struct) -> Value {
    let fields = table.fields.into_iter();
    fields
        .map(|(name, value)| (name, json_value(value)))
        .collect()
}

fn json_value(value: prost_types::Value) -> Value {
    match value.kind.unwrap() {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => number.into(),
        Kind::StringValue(text) => text.into(),
        Kind::BoolValue(boolean) => boolean.into(),
        Kind::StructValue(table) => json(table),
        Kind::ListValue(list) => list.values.into_iter().map(json_value).collect(),
    }
}

#[tokio::test]
async fn headers_and_metrics() {
    let mut asker = Asker::start(&[("ENVOY__RESPONSE_HEADERS", "true")]).await;
    let descriptors: [&[(&str, &str)]; 3] = [
        &[("plan", "gold")],
        &[("nobody", "knows")],
        &[("user", "alice")],
    ];
    let response = asker.ask(&descriptors).await;
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
    let none = asker.ask(&[&[("nobody", "knows")]]).await;
    assert!(none.response_headers_to_add.is_empty());

    asker.ask(&[&[("user", "alice")]]).await;
    asker.ask(&[&[("plan", "free")]]).await;
    asker.ask(&[&[("vip", "carol")]]).await;
    for path in ["/static/a", "/static/b", "/api/7/pay"] {
        asker.ask(&[&[("method", "GET"), ("path", path)]]).await;
    }
    for _ in 0..2 {
        asker.ask(&[&[("trial", "a")]]).await;
    }
    let metrics = get(asker.server.http(), "/metrics").await.into_body();
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

/// The most series that values of requests get.
const MOST_SERIES: usize = 1_000;

#[tokio::test]
async fn labels_of_requests_are_bounded() {
    let mut asker = Asker::start(&[]).await;
    let long = "x".repeat(300);
    asker.ask(&[&[("vip", &long)]]).await;
    for batch in 0..=MOST_SERIES / 100 {
        let values: Vec<_> = (0..100).map(|one| format!("{batch}-{one}")).collect();
        let entries: Vec<_> = values.iter().map(|value| [("vip", &**value)]).collect();
        let descriptors: Vec<_> = entries.iter().map(|entries| &entries[..]).collect();
        asker.ask(&descriptors).await;
    }
    // Rules without values of requests, and labels from before, keep their series.
    asker.ask(&[&[("plan", "free")], &[("vip", "0-0")]]).await;
    let metrics = get(asker.server.http(), "/metrics").await.into_body();
    let hits = |rule: &str| {
        let series = format!("rule=\"{rule}\",outcome=\"ok\"}} ");
        let line = metrics.lines().find(|line| line.contains(&series));
        let number = line.and_then(|line| line.rsplit(' ').next());
        number.map(|number| number.parse().unwrap())
    };
    assert_eq!(metrics.matches("rule=\"vip_").count(), MOST_SERIES);
    assert_eq!(hits("other"), Some(101));
    assert_eq!(hits("vip_0-0"), Some(2));
    assert_eq!(hits("plan_free"), Some(1));
}

/// The error with which the server refuses rules, or an empty text.
fn verdict(rules: &str) -> String {
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
        assert_eq!(verdict(&rules), "", "{rule}");
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
        // Envoy ratelimit compares these with key and value together.
        ("value: v\n- key: \"k*\"", "in a value only"),
    ] {
        let rules = format!("domain: a\ndescriptors:\n- key: k\n  {rule}\n");
        let verdict = verdict(&rules);
        assert!(verdict.contains(error), "{rule}: {verdict}");
    }
}

/// A leading zero makes a number octal, for Envoy ratelimit too. No number is a rule that denies all.
#[tokio::test]
async fn numbers_mean_the_same_as_in_envoy_ratelimit() {
    let rules = file(
        "{domain: numbers, descriptors: [\
         {key: octal, rate_limit: {unit: year, requests_per_unit: 010}},\
         {key: none, rate_limit: {unit: year}}]}",
    );
    let files = format!("[{:?}]", rules.path());
    let mut asker = Asker::start(&[("ENVOY__FILES", &*files)]).await;
    for (key, limit) in [("octal", 8), ("none", 0)] {
        let request = RateLimitRequest {
            domain: "numbers".to_owned(),
            ..request(&[&[(key, "a")]])
        };
        let response = asker.send(request).await;
        let current = response.statuses[0].current_limit.as_ref().unwrap();
        assert_eq!(current.requests_per_unit, limit, "{key}");
        let is_allowed = response.overall_code() == Code::Ok;
        assert_eq!(is_allowed, limit > 0, "{key}");
    }
}
