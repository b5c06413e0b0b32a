//! The server applies a changed configuration while it runs. An invalid configuration changes
//! nothing, and its error names the file, the line and the field.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use hyper::{Method, StatusCode};
use tempfile::TempDir;

use crate::support::http::{check, get, json_body};
use crate::support::{Server, Wait, http};

/// Returns the limit in force, as a check of cost 0 shows it.
async fn limit(server: &Server) -> u64 {
    let response = check(server.http(), r#"{"key":"a","cost":0}"#).await;
    json_body(&response)["limit"].as_u64().unwrap()
}

async fn wait_for_limit(server: &Server, expected: u64) {
    let wait = Wait::until(format!("the limit is {expected}"));
    while limit(server).await != expected {
        wait.sleep().await;
    }
}

/// Replaces the file by a rename, so that the server never reads half of it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

/// Returns a configuration with this default limit.
fn settings(limit: &str) -> String {
    format!("[default]\nlimit = \"{limit}\"\n")
}

#[tokio::test]
async fn changed_file_is_applied() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Server::with_config(&path, &[]);
    assert_eq!(limit(&server).await, 10);
    // Some editors write into the file, and others replace it.
    fs::write(&path, settings("20/1d")).unwrap();
    wait_for_limit(&server, 20).await;
    replace(&path, &settings("30/1d"));
    wait_for_limit(&server, 30).await;
}

/// In a ConfigMap of Kubernetes, the file is a link through another link, which is replaced.
#[tokio::test]
async fn replaced_symlink_is_applied() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let link = |version: &str| {
        symlink(version, path("new")).unwrap();
        fs::rename(path("new"), path("data")).unwrap();
    };
    for (version, limit) in [("first", "10/1d"), ("second", "20/1d")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("server.toml"), settings(limit)).unwrap();
    }
    link("first");
    symlink("data/server.toml", path("server.toml")).unwrap();
    let server = Server::with_config(&path("server.toml"), &[]);
    assert_eq!(limit(&server).await, 10);
    link("second");
    wait_for_limit(&server, 20).await;
}

#[tokio::test]
async fn sighup_reloads_the_configuration() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Server::with_config(&path, &[]);
    replace(&path, &settings("20/1d"));
    server.signal("HUP");
    wait_for_limit(&server, 20).await;
    // An unchanged file is read again too.
    let before = server.log().matches("was read again").count();
    server.signal("HUP");
    server
        .wait_for_log_times("was read again", before + 1)
        .await;
}

#[tokio::test]
async fn invalid_configuration_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Server::with_config(&path, &[("ADMIN__TOKENS__ALICE", "token-of-alice-1234")]);
    let invalid = [
        (
            "[default]\nlimit = 7\n",
            "server.toml:2: default.limit: must be a quota",
        ),
        (
            "[default]\nlimit = \"0/1s\"\n",
            "server.toml:2: default.limit: `0/1s`: a quota's limit",
        ),
        ("[default\n", "server.toml:1: invalid TOML"),
        (
            "\n\n[store]\nfailure = \"shut\"\n",
            "server.toml:4: store.failure: ",
        ),
        (
            "[store]\nurl = \"redis://127.0.0.1:1\"\n",
            "restart to change store",
        ),
        (
            "[log]\nformat = \"json\"\n[shutdown]\ndelay = \"7s\"\n",
            "restart to change shutdown",
        ),
    ];
    for (index, (text, reason)) in invalid.into_iter().enumerate() {
        replace(&path, text);
        server.wait_for_log_times("was refused", index + 1).await;
        assert!(server.log().contains(reason), "{reason}: {}", server.log());
        assert_eq!(limit(&server).await, 10, "{text}");
        let token = [("authorization", "Bearer token-of-alice-1234")];
        let endpoint = "/configuration";
        let response = http::call(Method::GET, server.admin(), endpoint, &token, "").await;
        let refused = json_body(&response)["refused"].to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    let metrics = get(server.http(), "/metrics").await;
    let refused = r#"tollgate_server_reloads_total{result="refused"} 6"#;
    assert!(metrics.body().contains(refused), "{}", metrics.body());
    // The next valid configuration is applied.
    replace(&path, &settings("20/1d"));
    wait_for_limit(&server, 20).await;
}

#[tokio::test]
async fn changed_rule_file_is_applied() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    let rules = directory.path().join("rules.yaml");
    let write = |requests: &str| {
        let rule = "domain: edge\ndescriptors:\n  - key: a\n    rate_limit:\n      unit: day\n";
        replace(
            &rules,
            &format!("{rule}      requests_per_unit: {requests}\n"),
        );
    };
    replace(&path, "");
    let server = Server::with_config(&path, &[]);
    // The first version has a mistake, which the second one corrects.
    write("many");
    replace(&path, "[envoy]\nfiles = [\"rules.yaml\"]\n");
    server.wait_for_log("was refused").await;
    let mistake = "rules.yaml:6: descriptors[0].rate_limit.requests_per_unit: must be";
    assert!(server.log().contains(mistake), "{}", server.log());
    write("5");
    server.wait_for_log("was read again").await;
    write("6");
    server.wait_for_log_times("was read again", 2).await;
}

#[tokio::test]
async fn deeply_nested_rules_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    let rules = directory.path().join("rules.yaml");
    replace(&rules, "domain: edge\n");
    replace(&path, "[envoy]\nfiles = [\"rules.yaml\"]\n");
    let server = Server::with_config(&path, &[]);
    for (index, nested) in ["- ", "? ", "["].into_iter().enumerate() {
        let rule = format!("domain: edge\ndescriptors:\n  {}\n", nested.repeat(20_000));
        replace(&rules, &rule);
        server.wait_for_log_times("was refused", index + 1).await;
    }
    assert_eq!(get(server.http(), "/health").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn changed_log_filter_is_applied() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    let log = |filter: &str, limit: &str| {
        let settings = settings(limit);
        replace(&path, &format!("{settings}[log]\nfilter = \"{filter}\"\n"));
    };
    log("error", "10/1d");
    let server = Server::with_config(&path, &[]);
    assert_eq!(server.log(), "");
    log("info", "30/1d");
    server.wait_for_log("was read again").await;
    assert_eq!(limit(&server).await, 30);
    let before = server.log();
    // Reloads are sequential, so the server would have logged the first one before the second
    // begins.
    for limit in [40, 50] {
        log("off", &format!("{limit}/1d"));
        wait_for_limit(&server, limit).await;
    }
    assert_eq!(server.log(), before);
}

#[tokio::test]
async fn log_format_change_does_not_block_other_changes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Server::with_config(&path, &[]);
    let format = "[log]\nformat = \"json\"\n";
    replace(&path, &format!("{}{format}", settings("20/1d")));
    wait_for_limit(&server, 20).await;
    server.wait_for_log("log.format needs a restart").await;
    server.wait_for_log("was read again").await;
}
