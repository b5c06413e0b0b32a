//! The alerts and the dashboard are valid, use only documented metrics and labels, and have results
//! in a Prometheus that scrapes a server.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::prometheus::Prometheus;
use super::tools::{document, path, program, read, run};
use crate::support::grpc::{self, descriptor, envoy_request};
use crate::support::http::{check, get};
use crate::support::{Redis, Server, Wait};

/// Returns all alerting rules.
fn alerts() -> Vec<Value> {
    let rules = document("chart/files/alerts.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Returns the panels of the dashboard, without its rows.
fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read("chart/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .cloned()
        .collect()
}

/// Returns the targets of all panels. A target has an expression and a legend.
fn targets() -> Vec<Value> {
    let panels = panels();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.cloned().collect()
}

/// Returns the expressions of the dashboard with values for Grafana's variables.
fn dashboard_expressions() -> Vec<String> {
    let expression = |target: &Value| {
        let expression = target["expr"].as_str().unwrap();
        // The test takes less than an hour on any machine, so the interval covers all of it.
        let expression = expression.replace("$__rate_interval", "1h");
        expression.replace("$instance", ".*")
    };
    targets().iter().map(expression).collect()
}

/// Returns the series of the alerts' tests, each as a selector.
fn tested_series() -> Vec<String> {
    let tests = document("alerts.test.yaml");
    let tests = tests["tests"].as_array().unwrap().iter();
    let series = tests.flat_map(|test| test["input_series"].as_array().unwrap());
    let series = series.map(|series| series["series"].as_str().unwrap().to_owned());
    series.collect()
}

#[test]
fn prometheus_configuration_is_valid() {
    // In the container, both files are in one directory.
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
fn alerts_pass_their_tests() {
    run(program("promtool")
        .args(["test", "rules"])
        .arg(path("alerts.test.yaml")));
    let tests = document("alerts.test.yaml");
    let tests = tests["tests"].as_array().unwrap().iter();
    let tests: Vec<_> = tests
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .collect();
    for alert in alerts() {
        let name = &alert["alert"];
        let tests_of_alert = tests
            .iter()
            .copied()
            .filter(|test| test["alertname"] == *name);
        let (silent, firing): (Vec<&Value>, Vec<&Value>) =
            tests_of_alert.partition(|test| test["exp_alerts"] == json!([]));
        assert!(!silent.is_empty(), "{name} has no test without an alert");
        assert!(!firing.is_empty(), "{name} has no test with an alert");
        assert!(alert["annotations"]["summary"].is_string(), "{name}");
        assert!(alert["labels"]["severity"].is_string(), "{name}");
    }
}

#[test]
fn dashboard_panels_fit_and_are_described() {
    let dashboard: Value = serde_json::from_str(&read("chart/files/dashboard.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap());
        assert!(x + width <= 24, "{title} is wider than the grid");
        for column in x..x + width {
            for row in y..y + height {
                let is_free = cells.insert((column, row));
                assert!(is_free, "{title} overlaps another panel");
            }
        }
    }
    for panel in panels() {
        let title = &panel["title"];
        assert!(panel["description"].is_string(), "{title}");
        assert_eq!(panel["datasource"]["uid"], json!("${source}"));
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["source", "instance"]);
}

/// The paths and ports in Grafana's configuration are those of the Compose file.
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

/// Returns the selectors of an expression that are for metrics of the server or for `up`.
fn selectors(expression: &str) -> BTreeSet<&str> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut selectors = BTreeSet::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        rest = &rest[start..];
        let name = rest
            .find(|character: char| !is_name(character))
            .unwrap_or(rest.len());
        let is_of_server = ["rate_limit_", "tollgate_server_"]
            .iter()
            .any(|prefix| rest.starts_with(prefix));
        let end = match rest[name..].starts_with('{') {
            true => rest.find('}').unwrap() + 1,
            false => name,
        };
        if is_of_server || &rest[..name] == "up" {
            selectors.insert(&rest[..end]);
        }
        rest = &rest[end..];
    }
    selectors
}

#[test]
fn selectors_have_their_matchers() {
    let found = selectors(r#"sum by (up_to) (rate(rate_limit_a[5m])) / up{job="a"} > bool 1"#);
    assert_eq!(found, BTreeSet::from(["rate_limit_a", r#"up{job="a"}"#]));
}

/// A label and the value by which a selector matches it.
type Matcher<'a> = (&'a str, &'a str);

/// Returns the metric and the matchers of a selector.
fn parse_selector(selector: &str) -> (&str, Vec<Matcher<'_>>) {
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

/// Returns the labels by which an expression aggregates.
fn aggregation_labels(expression: &str) -> BTreeSet<&str> {
    let lists = expression.split("by (").skip(1);
    let lists = lists.flat_map(|rest| rest[..rest.find(')').unwrap()].split(", "));
    lists.collect()
}

/// Labels that Prometheus adds.
const PROMETHEUS_LABELS: [&str; 3] = ["instance", "job", "le"];

/// Labels whose values are all documented.
const DOCUMENTED_LABELS: [&str; 7] = [
    "kind",
    "operation",
    "outcome",
    "protocol",
    "result",
    "status",
    "store",
];

const GUIDE: &str = include_str!("../../../../../src/guide/metrics.md");
const README: &str = include_str!("../../../README.md");

/// Returns the row of a metric in the tables of the documentation.
fn documentation(metric: &str) -> &'static str {
    let suffixes = ["_bucket", "_sum", "_count"];
    let mut names = suffixes
        .iter()
        .filter_map(|suffix| metric.strip_suffix(suffix));
    let start = format!("| `{}` |", names.next().unwrap_or(metric));
    let mut rows = GUIDE.lines().chain(README.lines());
    let row = rows.find(|row| row.starts_with(&start));
    row.unwrap_or_else(|| panic!("{metric} is not documented"))
}

/// Returns whether the text contains the word, and not only as a part of another word.
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
            let (metric, matchers) = parse_selector(selector);
            if metric == "up" {
                continue;
            }
            let row = documentation(metric);
            let by = aggregation_labels(expression).into_iter();
            let labels = by.chain(matchers.iter().map(|(label, _)| *label));
            for label in labels.filter(|label| !PROMETHEUS_LABELS.contains(label)) {
                assert!(
                    row.contains(&format!("`{label}`")),
                    "{label} in {expression}"
                );
            }
            for (label, value) in matchers {
                let is_documented = has_word(row, value) || README.contains(&format!("`{value}`"));
                let is_added = PROMETHEUS_LABELS.contains(&label);
                assert!(is_added || is_documented, "{label}={value} in {expression}");
            }
        }
    }
    for series in tested_series() {
        let (metric, labels) = parse_selector(&series);
        for (label, value) in labels.into_iter().filter(|_| metric != "up") {
            let row = documentation(metric);
            let is_added = PROMETHEUS_LABELS.contains(&label);
            assert!(is_added || row.contains(&format!("`{label}`")), "{series}");
            let is_documented = has_word(row, value) || GUIDE.contains(&format!("`{value}`"));
            assert!(
                !DOCUMENTED_LABELS.contains(&label) || is_documented,
                "{series}"
            );
        }
    }
}

/// A legend or an annotation can only show labels that the result of its expression has.
#[test]
fn legends_and_annotations_show_existing_labels() {
    for target in targets() {
        let by = aggregation_labels(target["expr"].as_str().unwrap());
        let legend = target["legendFormat"].as_str().unwrap();
        for label in legend.split("{{").skip(1) {
            let label = label.split("}}").next().unwrap();
            assert!(by.contains(label), "{legend}: {target}");
        }
    }
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        let mut labels = aggregation_labels(expression);
        if labels.is_empty() {
            labels.extend(PROMETHEUS_LABELS);
        }
        for text in alert["annotations"].as_object().unwrap().values() {
            for label in text.as_str().unwrap().split("$labels.").skip(1) {
                let label = label.split(' ').next().unwrap();
                assert!(labels.contains(label), "{label}: {alert}");
            }
        }
    }
}

/// The panel and the alert about store errors describe every kind of error.
#[test]
fn every_kind_of_store_error_is_explained() {
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

/// Makes checks over HTTP of a key that is denied and of new keys, and requests as Envoy does,
/// until it is aborted.
async fn send_requests(http: SocketAddr, grpc_url: String) {
    let mut envoy = grpc::connect_envoy(grpc_url).await;
    for number in 0_u64.. {
        check(http, r#"{"key":"denied"}"#).await;
        check(http, &format!(r#"{{"key":"number {number}"}}"#)).await;
        let request = envoy_request("edge", [descriptor(&[("all", "")])]);
        envoy.should_rate_limit(request).await.unwrap();
        // Leaves processor time to the servers.
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn every_expression_has_a_result() {
    let redis = Redis::start().await;
    let url = redis.url();
    let server = Server::start(&[
        ("STORE__URL", &*url),
        ("STORE__DEADLINE", "15s"),
        // So small that entries are evicted.
        ("STORE__FALLBACK_CAPACITY", "64"),
        ("DEFAULT__LIMIT", "fixed 5/365d"),
        (
            "ENVOY__DOMAINS",
            r#"[{ domain = "edge", descriptors = [{ key = "all", rate_limit = { unit = "year", requests_per_unit = 5 } }] }]"#,
        ),
    ]);
    let prometheus = Prometheus::start(&[server.http()]).await;
    let load = tokio::spawn(send_requests(server.http(), server.grpc_url()));
    // While Redis is up, checks wait for it, and denials are cached.
    prometheus
        .wait_for_result("rate(rate_limit_check_duration_seconds_sum[1h]) > 0")
        .await;
    prometheus
        .wait_for_result("rate(rate_limit_denial_cache_hits_total[1h]) > 0")
        .await;
    redis.kill();
    prometheus
        .wait_for_result("rate(rate_limit_evictions_total[1h]) > 0")
        .await;
    prometheus
        .wait_for_result("rate(rate_limit_degraded_total[1h]) > 0")
        .await;

    let expressions = dashboard_expressions();
    assert!(expressions.len() >= 14, "{}", expressions.len());
    for expression in &expressions {
        prometheus.wait_for_result(expression).await;
    }
    // The dashboard lists the servers by a metric that each server has from the start.
    let dashboard = read("chart/files/dashboard.json");
    let (_, query) = dashboard.split_once("label_values(").unwrap();
    let (metric, _) = query.split_once(',').unwrap();
    let idle = Server::start(&[]);
    let metrics = get(idle.http(), "/metrics").await.into_body();
    assert!(metrics.contains(metric), "{metric}: {metrics}");
    // The series in the alerts' tests have labels that real series have.
    for series in tested_series() {
        let (metric, labels) = parse_selector(&series);
        let labels = labels.iter().map(|(label, _)| format!("{label}!=\"\""));
        let labels = labels.collect::<Vec<_>>().join(", ");
        prometheus
            .wait_for_result(&format!("{metric}{{{labels}}}"))
            .await;
    }
    // An alert that does not fire has no result, so its selectors are evaluated one by one.
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap();
        prometheus.count(expression).await;
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{expression}");
        for selector in selectors {
            prometheus.wait_for_result(selector).await;
        }
    }
    // Prometheus evaluates all rules, and the alert about the open circuit breaker is pending or
    // firing.
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
    assert!(!load.is_finished(), "every request got a response");
    load.abort();
}
