//! A running Prometheus.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::tools::{document, path, program};
use crate::support::Wait;
use crate::support::http::{get, json_body, try_get};
use crate::support::process::Process;
use crate::support::redis_servers::Port;

/// A running Prometheus. Dropping it kills the process.
pub(super) struct Prometheus {
    /// Before the directory, so that it is dropped first.
    _process: Process,
    port: Port,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes these servers, with the deployed configuration except for
    /// the addresses and the intervals.
    pub(super) async fn start(servers: &[SocketAddr]) -> Self {
        let mut configuration = document("compose/prometheus.yaml");
        configuration["global"] = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
        configuration["rule_files"] = json!([path("chart/files/alerts.yaml")]);
        let job = configuration["scrape_configs"][0].as_object_mut().unwrap();
        job.remove("dns_sd_configs")
            .expect("the deployed servers are found by DNS");
        let targets: Vec<_> = servers.iter().map(SocketAddr::to_string).collect();
        job.insert("static_configs".to_owned(), json!([{"targets": targets}]));
        let directory = TempDir::with_prefix("tollgate-prometheus-").unwrap();
        // JSON is YAML.
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, configuration.to_string()).unwrap();
        let port = Port::reserve();
        let option = |name: &str, value: &str| format!("--{name}={value}");
        let mut command = program("prometheus");
        command
            .arg(option("config.file", file.to_str().unwrap()))
            .arg(option(
                "storage.tsdb.path",
                directory.path().join("data").to_str().unwrap(),
            ))
            .arg(option(
                "web.listen-address",
                &format!("127.0.0.1:{}", port.number()),
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let prometheus = Self {
            _process: Process::spawn(&mut command),
            port,
            _directory: directory,
        };
        let wait = Wait::until("Prometheus is ready");
        while !try_get(prometheus.address(), "/-/ready")
            .await
            .is_some_and(|response| response.status().is_success())
        {
            wait.sleep().await;
        }
        prometheus
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port.number()).into()
    }

    /// Calls Prometheus's HTTP API, and returns the data of the response.
    async fn call(&self, path: &str) -> Value {
        let body = json_body(&get(self.address(), path).await);
        assert_eq!(body["status"], json!("success"), "{path}: {body}");
        body["data"].clone()
    }

    /// Returns the number of results of an expression that are not NaN.
    pub(super) async fn count(&self, expression: &str) -> usize {
        let query = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let data = self.call(&format!("/api/v1/query?query={query}")).await;
        let results = data["result"].as_array().unwrap().iter();
        results
            .filter(|result| result["value"][1] != json!("NaN"))
            .count()
    }

    /// Waits until an expression has a result.
    pub(super) async fn wait_for_result(&self, expression: &str) {
        let wait = Wait::until(format!("{expression} has a result"));
        while self.count(expression).await == 0 {
            wait.sleep().await;
        }
    }

    /// Returns all alerting rules with their states.
    pub(super) async fn rules(&self) -> Vec<Value> {
        let data = self.call("/api/v1/rules").await;
        let groups = data["groups"].as_array().unwrap().iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().unwrap().clone());
        rules.collect()
    }
}
