//! The alerts and the dashboard, checked by Prometheus's own tools, by the documentation of the metrics,
//! and by a Prometheus that scrapes a server.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::prometheus::Prometheus;
use super::tools::{document, path, program, read, run};
use crate::support::client::{check, get};
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

/// The targets of all panels, each with its expression and its legend.
fn targets() -> Vec<Value> {
    let panels = panels();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.cloned().collect()
}

/// The dashboard's expressions, for all replicas.
fn dashboard_expressions() -> Vec<String> {
    let expression = |target: &Value| target["expr"].as_str().unwrap().to_owned();
    // An interval that is longer than the test takes on any machine.
    let with_values = |expression: String| {
        expression
            .replace("$__rate_interval", "1h")
            .replace("$instance", ".*")
    };
    targets().iter().map(expression).map(with_values).collect()
}

/// The series of the alerts' tests.
fn tested_series() -> Vec<String> {
    let tests = document("alerts.test.yaml");
    let tests = tests["tests"].as_array().unwrap().iter();
    let series = tests.flat_map(|test| test["input_series"].as_array().unwrap());
    let series = series.map(|series| series["series"].as_str().unwrap().to_owned());
    series.collect()
}

#[test]
fn prometheus_configuration_is_valid() {
    // In one directory, as in the container.
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
fn dashboard_is_complete() {
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
                    "{} overlaps another panel",
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

/// Grafana's configuration names the paths and ports of the Compose file.
#[test]
fn grafana_finds_dashboard_and_prometheus() {
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

/// The selectors of an expression for metrics of the server, and for `up`.
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

/// The value of a label by which an expression selects series.
type Matcher<'a> = (&'a str, &'a str);

/// The metric and the labels of a selector.
fn taken_apart(selector: &str) -> (&str, Vec<Matcher<'_>>) {
    let Some((metric, matchers)) = selector.split_once('{') else {
        return (selector, Vec::new());
    };
    let matchers = matchers.trim_end_matches('}').split(", ");
    let matchers = matchers.map(|matcher| {
        let (label, value) = matcher.split_once('"').unwrap();
        (
            label.trim_end_matches(['=', '~', '!']),
            value.trim_end_matches('"'),
        )
    });
    (metric, matchers.collect())
}

/// The labels by which an expression aggregates.
fn aggregated_by(expression: &str) -> BTreeSet<&str> {
    let lists = expression.split("by (").skip(1);
    let lists = lists.flat_map(|rest| rest[..rest.find(')').unwrap()].split(", "));
    lists.collect()
}

/// Labels that Prometheus adds itself.
const OF_PROMETHEUS: [&str; 3] = ["instance", "job", "le"];

/// Labels whose values are documented.
const CLOSED: [&str; 7] = [
    "door",
    "kind",
    "operation",
    "outcome",
    "result",
    "status",
    "store",
];

const GUIDE: &str = include_str!("../../../../../src/guide/metrics.md");
const README: &str = include_str!("../../../README.md");

/// The row of a metric in the tables of the documentation.
fn documentation(metric: &str) -> &'static str {
    let suffixes = ["_bucket", "_sum", "_count"];
    let mut names = suffixes.iter().filter_map(|it| metric.strip_suffix(it));
    let start = format!("| `{}` |", names.next().unwrap_or(metric));
    let mut rows = GUIDE.lines().chain(README.lines());
    let row = rows.find(|row| row.starts_with(&start));
    row.unwrap_or_else(|| panic!("{metric} is not documented"))
}

fn has_word(text: &str, word: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
    words.any(|other| other == word)
}

#[test]
fn used_metrics_are_documented() {
    let alerts = alerts();
    let alerts = alerts.iter().map(|alert| alert["expr"].as_str().unwrap());
    let alerts: Vec<_> = alerts.map(str::to_owned).collect();
    for expression in dashboard_expressions().iter().chain(&alerts) {
        for selector in selectors(expression) {
            let (metric, matchers) = taken_apart(selector);
            if metric == "up" {
                continue;
            }
            let row = documentation(metric);
            let by = aggregated_by(expression).into_iter();
            let labels = by.chain(matchers.iter().map(|(label, _)| *label));
            for label in labels.filter(|label| !OF_PROMETHEUS.contains(label)) {
                assert!(
                    row.contains(&format!("`{label}`")),
                    "{label} in {expression}"
                );
            }
            for (label, value) in matchers {
                let is_documented = has_word(row, value) || README.contains(&format!("`{value}`"));
                let is_own = OF_PROMETHEUS.contains(&label);
                assert!(is_own || is_documented, "{label}={value} in {expression}");
            }
        }
    }
    for series in tested_series() {
        let (metric, labels) = taken_apart(&series);
        for (label, value) in labels.into_iter().filter(|_| metric != "up") {
            let row = documentation(metric);
            let is_own = OF_PROMETHEUS.contains(&label);
            assert!(is_own || row.contains(&format!("`{label}`")), "{series}");
            let is_documented = has_word(row, value) || GUIDE.contains(&format!("`{value}`"));
            assert!(!CLOSED.contains(&label) || is_documented, "{series}");
        }
    }
}

/// Legends and annotations show labels that the results of their expressions have.
#[test]
fn shown_labels_exist() {
    for target in targets() {
        let by = aggregated_by(target["expr"].as_str().unwrap());
        let legend = target["legendFormat"].as_str().unwrap();
        for label in legend.split("{{").skip(1) {
            let label = label.split("}}").next().unwrap();
            assert!(by.contains(label), "{legend}: {target}");
        }
    }
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        let mut labels = aggregated_by(expression);
        if labels.is_empty() {
            labels.extend(OF_PROMETHEUS);
        }
        for text in alert["annotations"].as_object().unwrap().values() {
            for label in text.as_str().unwrap().split("$labels.").skip(1) {
                let label = label.split(' ').next().unwrap();
                assert!(labels.contains(label), "{label}: {alert}");
            }
        }
    }
}

/// The texts about store errors explain every kind.
#[test]
fn kinds_of_store_errors_are_explained() {
    let row = documentation("rate_limit_errors_total");
    let (_, kinds) = row.split_once("store errors: ").unwrap();
    let kinds: Vec<_> = kinds.split('`').skip(1).step_by(2).collect();
    assert!(kinds.len() >= 5, "{kinds:?}");
    let panels = panels();
    let panel = panels.iter().find(|panel| panel["title"] == "Store errors");
    let alerts = alerts();
    let alert = alerts
        .iter()
        .find(|alert| alert["alert"] == "TollgateStoreErrors");
    let texts = [
        &panel.unwrap()["description"],
        &alert.unwrap()["annotations"]["description"],
    ];
    for text in texts {
        let text = text.as_str().unwrap();
        for kind in &kinds {
            assert!(has_word(text, kind), "{kind}: {text}");
        }
    }
}

/// Sends requests by every protocol until it is aborted: for a key that is denied, and for new keys.
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
        // Leaves processor time to the servers.
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn every_expression_has_a_result() {
    let redis = Server::start().await;
    let url = redis.url();
    let server = Replica::start(&[
        ("STORE__URL", &*url),
        ("STORE__DEADLINE", "15s"),
        // So few that some counts are evicted.
        ("STORE__FALLBACK_CAPACITY", "64"),
        ("DEFAULT__LIMIT", "fixed 5/365d"),
        (
            "ENVOY__DOMAINS",
            r#"[{ domain = "edge", descriptors = [{ key = "all", rate_limit = { unit = "year", requests_per_unit = 5 } }] }]"#,
        ),
    ]);
    let prometheus = Prometheus::start(&[server.http()]).await;
    let load = tokio::spawn(load(server.http(), server.grpc_url()));
    // While Redis is there, checks wait for it, and denials are remembered.
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

    let expressions = dashboard_expressions();
    assert!(expressions.len() >= 14, "{}", expressions.len());
    for expression in &expressions {
        prometheus.until_it_has(expression).await;
    }
    // The dashboard chooses replicas by a metric that each of them has from the start.
    let dashboard = read("chart/files/dashboard.json");
    let (_, query) = dashboard.split_once("label_values(").unwrap();
    let (metric, _) = query.split_once(',').unwrap();
    let idle = Replica::start(&[]);
    let metrics = get(idle.http(), "/metrics").await.into_body();
    assert!(metrics.contains(metric), "{metric}: {metrics}");
    // The tests of the alerts use labels that series really have.
    for series in tested_series() {
        let (metric, labels) = taken_apart(&series);
        let labels = labels.iter().map(|(label, _)| format!("{label}!=\"\""));
        let labels = labels.collect::<Vec<_>>().join(", ");
        prometheus
            .until_it_has(&format!("{metric}{{{labels}}}"))
            .await;
    }
    // An alert has no result while it does not fire, but its selectors have.
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        prometheus.count(expression).await;
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{expression}");
        for selector in selectors {
            prometheus.until_it_has(selector).await;
        }
    }
    // Prometheus evaluates all rules, and one of them sees that Redis is gone.
    let wait = Wait::until("Prometheus has evaluated all rules, and sees the open breaker");
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
        wait.sleep().await;
    }
    assert!(!load.is_finished(), "every question was answered");
    load.abort();
}
