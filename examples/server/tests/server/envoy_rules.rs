//! `ShouldRateLimit` as Envoy's clients call it: which rule a descriptor means, and what is
//! answered.

use prost_types::value::Kind;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
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
use crate::support::{Replica, file};

/// With all that the format has. Nothing is regained while a test runs.
const RULES: &str = r#"---
domain: shop
descriptors:
  # A value, and every other value by itself.
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
    metadata: {quota: {name: "1st", of: 2}, list: [1.5, yes, ~, true]}
  - key: second
    quota_mode: true
    rate_limit: {unit: year, requests_per_unit: 2}
    metadata: {quota: {name: 2nd, also: {second: true}}, list: []}
  - key: large
    rate_limit: {unit: month, requests_per_unit: 4294967295}
  - key: nothing
"#;

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

    /// Asks about several descriptors at once.
    async fn ask(&mut self, descriptors: &[&[(&str, &str)]]) -> RateLimitResponse {
        self.send(request(descriptors)).await
    }

    /// Whether the only descriptor is let through.
    async fn allows(&mut self, entries: &[(&str, &str)]) -> bool {
        let response = self.ask(&[entries]).await;
        assert_eq!(response.statuses.len(), 1);
        assert_eq!(response.overall_code, response.statuses[0].code);
        response.overall_code() == Code::Ok
    }

    /// How often it is let through, and by which limit.
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
async fn which_rule_it_is() {
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
    // One count for all that match the wildcard, but not for what has a rule of its own.
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
async fn what_is_answered() {
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
        "they were not asked for"
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

    // Any that is over limit is enough; the others are charged all the same.
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
    // What does not fit is not charged: fewer do.
    five.hits_addend = 2;
    assert_eq!(asker.send(five).await.overall_code(), Code::Ok);
}

#[tokio::test]
async fn hits_that_are_told_afterwards() {
    let mut asker = Asker::start(&[]).await;
    // Five may be made. Whoever asks with none is let through until more have been told.
    for told in [&[3, 2, 1][..], &[3, 9]] {
        let destination = format!("{told:?}");
        let mut request = request(&[&[("source", "proxy"), ("destination", &destination)]]);
        // Of the descriptor, instead of the request's.
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
async fn rule_of_any_u32_in_any_unit_is_accepted() {
    let mut asker = Asker::start(&[]).await;
    let mut given = request(&[&[("plan", "free")]]);
    for (limit, unit) in [
        (10_000_000, RateLimitUnit::Month),
        (u32::MAX, RateLimitUnit::Year),
    ] {
        given.descriptors[0].limit = Some(RateLimitOverride {
            requests_per_unit: limit,
            unit: unit.into(),
        });
        let response = asker.send(given.clone()).await;
        assert_eq!(response.overall_code(), Code::Ok);
        assert_eq!(response.statuses[0].limit_remaining, limit - 1);
    }
    let response = asker.ask(&[&[("large", "a")]]).await;
    assert_eq!(response.statuses[0].limit_remaining, u32::MAX - 1);
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
    given.descriptors[0].limit = Some(limit(5, RateLimitUnit::Unknown));
    let status = asker.client.should_rate_limit(given).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);

    for bad in [
        RateLimitRequest {
            domain: String::new(),
            ..request(&[&[]])
        },
        request(&[]),
    ] {
        let status = asker.client.should_rate_limit(bad).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
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
    // What is replaced is not charged either.
    let both: [&[(&str, &str)]; 2] = [&[("user", "bob")], &[("vip", "bob")]];
    for _ in 0..3 {
        let response = asker.ask(&both).await;
        assert_eq!(response.overall_code(), Code::Ok);
        assert!(is_unlimited(&response.statuses[0]));
    }
    assert_eq!(asker.ask(&both).await.overall_code(), Code::OverLimit);
    asker.admits(&[("user", "bob")], 1).await;
    // Of quotas, one that is left is enough.
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
    let mut told = Vec::new();
    for _ in 0..3 {
        let response = asker.ask(&both).await;
        told.push(response.dynamic_metadata.map(json));
    }
    // Of both, while both let it through; what both say the first one says.
    let first = json!({
        "quota": {"name": "1st", "of": 2.0, "also": {"second": true}},
        "list": [1.5, "yes", null, true],
    });
    let second = json!({"quota": {"name": "2nd", "also": {"second": true}}, "list": []});
    let told_as = |metadata| Some(json!({"metadata": metadata}));
    assert_eq!(told, [told_as(first), told_as(second), None]);
    assert_eq!(
        asker.ask(&[&[("plan", "free")]]).await.dynamic_metadata,
        None
    );
}

fn json(told: prost_types::Struct) -> Value {
    let fields = told.fields.into_iter();
    fields.map(|(name, value)| (name, of_kind(value))).collect()
}

fn of_kind(value: prost_types::Value) -> Value {
    match value.kind.unwrap() {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => number.into(),
        Kind::StringValue(text) => text.into(),
        Kind::BoolValue(boolean) => boolean.into(),
        Kind::StructValue(told) => json(told),
        Kind::ListValue(list) => list.values.into_iter().map(of_kind).collect(),
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
            metrics.lines().any(|said| said == line),
            "{line}:\n{metrics}"
        );
    }
}
