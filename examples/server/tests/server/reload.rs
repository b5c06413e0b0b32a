//! A configuration that has changed is taken over while the server runs, and a bad one changes
//! nothing. A mistake is told with its file, line and field.

use std::fs;
use std::path::Path;

use crate::support::client::{check, get, json};
use crate::support::{Replica, Wait};
use serde_json::json;
use tempfile::TempDir;

async fn limit(server: &Replica) -> u64 {
    let said = json(&check(server.http(), r#"{"key":"a","cost":0}"#).await);
    said["limit"].as_u64().unwrap()
}

async fn until_limit(server: &Replica, expected: u64) {
    let wait = Wait::until(format!("the limit is {expected}"));
    while limit(server).await != expected {
        wait.on().await;
    }
}

fn write(path: &Path, limit: &str) {
    fs::write(path, format!("[default]\nlimit = \"{limit}\"\n")).unwrap();
}

#[tokio::test]
async fn by_a_change_of_the_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    write(&path, "10/1d");
    let server = Replica::configured(&path, &[]);
    assert_eq!(limit(&server).await, 10);
    write(&path, "20/1d");
    until_limit(&server, 20).await;
    // As editors do it, and Kubernetes.
    let other = directory.path().join("other.toml");
    write(&other, "30/1d");
    fs::rename(&other, &path).unwrap();
    until_limit(&server, 30).await;
}

#[tokio::test]
async fn by_a_signal() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    write(&path, "10/1d");
    let server = Replica::configured(&path, &[]);
    write(&path, "20/1d");
    server.signal("HUP");
    until_limit(&server, 20).await;
    // Even if nothing has changed, it is read again.
    let before = server.log().matches("was read again").count();
    server.signal("HUP");
    let wait = Wait::until("it is read again");
    while server.log().matches("was read again").count() == before {
        wait.on().await;
    }
}

#[tokio::test]
async fn a_bad_one_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    write(&path, "10/1d");
    let server = Replica::configured(&path, &[]);
    let bad = [
        ("[default]\nlimit = 7\n", "2: default.limit: "),
        ("[default]\nlimit = \"0/1s\"\n", "2: default.limit: "),
        ("[default\n", "1: this is no TOML"),
        ("\n\n[store]\nfailure = \"shut\"\n", "4: store.failure: "),
        (
            "[store]\nurl = \"redis://127.0.0.1:1\"\n",
            "restart to change store",
        ),
        ("[admin]\ntokens = [\"a\"]\n", "restart to change listen"),
    ];
    for (text, reason) in bad {
        fs::write(&path, text).unwrap();
        server.until_it_says(reason).await;
        assert_eq!(limit(&server).await, 10, "{text}");
    }
    // The next good one is taken.
    write(&path, "20/1d");
    until_limit(&server, 20).await;
    let metrics = get(server.http(), "/metrics").await;
    let refused = r#"tollgate_server_reloads_total{result="refused"} 6"#;
    assert!(metrics.body().contains(refused), "{}", metrics.body());
}

#[tokio::test]
async fn files_of_rules_too() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    fs::write(&path, "[envoy]\nfiles = [\"rules.yaml\"]\n").unwrap();
    let rules = directory.path().join("rules.yaml");
    let good = "domain: edge\ndescriptors:\n  - key: a\n    rate_limit:\n      unit: day\n";
    fs::write(&rules, format!("{good}      requests_per_unit: 5\n")).unwrap();
    let server = Replica::configured(&path, &[]);
    fs::write(&rules, format!("{good}      requests_per_unit: many\n")).unwrap();
    server
        .until_it_says("rules.yaml:6: descriptors[0].rate_limit.requests_per_unit: ")
        .await;
    fs::write(&rules, format!("{good}      requests_per_unit: 6\n")).unwrap();
    server.until_it_says("was read again").await;
    let said = json(&get(server.http(), "/ready").await);
    assert_eq!(said["ready"], json!(true));
}
