//! The alerts and the dashboard: right by Prometheus's own checkers, and by one that has seen a server.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::prometheus::Prometheus;
use super::tools::{document, path, program, read, run};
use crate::support::client::check;
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor::Entry,
};
use crate::support::protocol::envoy::service::ratelimit::v3::RateLimitRequest;
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use crate::support::{Replica, Server, Wait};

fn alerts() -> Vec<Value> {
    let rules = document("chart/files/alerts.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read("chart/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .cloned()
        .collect()
}

/// What the dashboard asks, of all replicas.
fn questions() -> Vec<String> {
    let panels = panels();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions = targets.map(|target| target["expr"].as_str().unwrap());
    // So long that nothing is over, however slow this machine is.
    let plain = |it: &str| {
        it.replace("$__rate_interval", "1h")
            .replace("$instance", ".*")
    };
    expressions.map(plain).collect()
}

#[test]
fn prometheus_takes_its_configuration() {
    // Together, as they are in its container.
    let directory = TempDir::with_prefix("tollgate-prometheus-").unwrap();
    let file = directory.path().join("prometheus.yml");
    fs::copy(path("compose/prometheus.yaml"), &file).unwrap();
    fs::copy(
        path("chart/files/alerts.yaml"),
        directory.path().join("alerts.yaml"),
    )
    .unwrap();
    run(program("promtool").args(["check", "config"]).arg(file));
    run(program("promtool")
        .args(["check", "rules"])
        .arg(path("chart/files/alerts.yaml")));
}

#[test]
fn alerts_fire_when_they_should() {
    run(program("promtool")
        .args(["test", "rules"])
        .arg(path("alerts.test.yaml")));
    let tests = document("alerts.test.yaml");
    let tests = tests["tests"].as_array().unwrap().iter();
    let tests: Vec<_> = tests
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .collect();
    for alert in alerts() {
        let of_it: Vec<_> = tests
            .iter()
            .filter(|test| test["alertname"] == alert["alert"])
            .collect();
        let silent = of_it.iter().filter(|test| test["exp_alerts"] == json!([]));
        let count = silent.count();
        assert!(
            (1..of_it.len()).contains(&count),
            "{}: {count} of {}",
            alert["alert"],
            of_it.len()
        );
        assert!(
            alert["annotations"]["summary"].is_string(),
            "{}",
            alert["alert"]
        );
        assert!(
            alert["labels"]["severity"].is_string(),
            "{}",
            alert["alert"]
        );
    }
}

#[test]
fn the_dashboard_is_sound() {
    let dashboard: Value = serde_json::from_str(&read("chart/files/dashboard.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for column in at("x")..at("x") + at("w") {
            for line in at("y")..at("y") + at("h") {
                assert!(
                    taken.insert((column, line)),
                    "{} is over another",
                    panel["title"]
                );
            }
        }
    }
    for panel in panels() {
        assert!(panel["description"].is_string(), "{}", panel["title"]);
        assert_eq!(panel["datasource"]["uid"], json!("${source}"));
        assert!(
            !panel["targets"].as_array().unwrap().is_empty(),
            "{}",
            panel["title"]
        );
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["source", "instance"]);
}

/// Grafana finds the dashboard, and Prometheus, where Compose puts them.
#[test]
fn grafana_is_provisioned() {
    let provider = &document("compose/grafana-dashboards.yaml")["providers"][0];
    let compose = document("compose.yaml");
    let grafana = &compose["services"]["grafana"];
    let home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        .as_str()
        .unwrap();
    assert!(home.starts_with(provider["options"]["path"].as_str().unwrap()));
    let volumes = grafana["volumes"].to_string();
    assert!(
        volumes.contains(&format!("dashboard.json:{home}:ro")),
        "{volumes}"
    );
    let source = &document("compose/grafana-datasources.yaml")["datasources"][0];
    assert_eq!(source["type"], json!("prometheus"));
    let ports = compose["services"]["prometheus"]["ports"].to_string();
    let url = source["url"].as_str().unwrap();
    let port = url.strip_prefix("http://prometheus:").unwrap();
    assert!(ports.contains(&format!(":{port}\"")), "{ports}");
}

/// The series that an expression is about.
fn selectors(expression: &str) -> BTreeSet<&str> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut selectors = BTreeSet::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        rest = &rest[start..];
        let name = rest
            .find(|character: char| !is_name(character))
            .unwrap_or(rest.len());
        let ours = ["rate_limit_", "tollgate_server_"]
            .iter()
            .any(|it| rest.starts_with(it));
        let end = match rest[name..].starts_with('{') {
            true => rest.find('}').unwrap() + 1,
            false => name,
        };
        if ours || &rest[..name] == "up" {
            selectors.insert(&rest[..end]);
        }
        rest = &rest[end..];
    }
    selectors
}

#[test]
fn selectors_are_found() {
    let found = selectors(r#"sum by (up_to) (rate(rate_limit_a[5m])) / up{job="a"} > bool 1"#);
    assert_eq!(found, BTreeSet::from(["rate_limit_a", r#"up{job="a"}"#]));
}

/// Questions without end, by every door: by one who is denied, and by ever new ones.
async fn load(http: SocketAddr, grpc: String) {
    let mut envoy = RateLimitServiceClient::connect(grpc).await.unwrap();
    for number in 0_u64.. {
        check(http, r#"{"key":"everybody"}"#).await;
        check(http, &format!(r#"{{"key":"number {number}"}}"#)).await;
        let entry = Entry {
            key: "all".to_owned(),
            value: String::new(),
        };
        let descriptor = RateLimitDescriptor {
            entries: vec![entry],
            ..Default::default()
        };
        let request = RateLimitRequest {
            domain: "edge".to_owned(),
            descriptors: vec![descriptor],
            ..Default::default()
        };
        envoy.should_rate_limit(request).await.unwrap();
        // So that others, too, have something of the machine.
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn every_expression_is_about_something() {
    let redis = Server::start().await;
    let url = redis.url();
    let server = Replica::start(&[
        ("STORE__URL", &*url),
        ("STORE__DEADLINE", "15s"),
        // So few that some are forgotten.
        ("STORE__FALLBACK_CAPACITY", "64"),
        ("DEFAULT__LIMIT", "fixed 5/365d"),
        (
            "ENVOY__DOMAINS",
            r#"[{ domain = "edge", descriptors = [{ key = "all", rate_limit = { unit = "year", requests_per_unit = 5 } }] }]"#,
        ),
    ]);
    let prometheus = Prometheus::start(&[server.http()]).await;
    let load = tokio::spawn(load(server.http(), server.grpc_url()));
    // As long as Redis is there, checks wait for it, and denials are remembered.
    prometheus
        .until_it_has("rate(rate_limit_check_duration_seconds_sum[1h]) > 0")
        .await;
    prometheus
        .until_it_has("rate(rate_limit_denial_memory_hits_total[1h]) > 0")
        .await;
    redis.kill();
    prometheus
        .until_it_has("rate(rate_limit_evictions_total[1h]) > 0")
        .await;
    prometheus
        .until_it_has("rate(rate_limit_degraded_total[1h]) > 0")
        .await;

    let questions = questions();
    assert!(questions.len() >= 14, "{}", questions.len());
    for question in &questions {
        prometheus.until_it_has(question).await;
    }
    // An alert has nothing to say as long as all is well, but what it looks at is there.
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        prometheus.count(expression).await;
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{expression}");
        for selector in selectors {
            prometheus.until_it_has(selector).await;
        }
    }
    // Prometheus itself evaluates them, and has seen that Redis is gone.
    let wait = Wait::until("Prometheus has evaluated all rules, and sees the breaker");
    loop {
        let rules = prometheus.rules().await;
        assert_eq!(rules.len(), alerts().len());
        assert!(
            rules.iter().all(|rule| rule["health"] != "err"),
            "{rules:?}"
        );
        let evaluated = rules.iter().all(|rule| rule["health"] == "ok");
        let breaker = rules
            .iter()
            .find(|rule| rule["name"] == "TollgateBreakerOpen")
            .unwrap();
        if evaluated && breaker["state"] != "inactive" {
            break;
        }
        wait.on().await;
    }
    assert!(!load.is_finished(), "every question was answered");
    load.abort();
}
