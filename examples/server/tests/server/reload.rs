//! The server takes over a changed configuration while it runs. A bad configuration changes nothing,
//! and its error names the file, the line and the field.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use hyper::{Method, StatusCode};
use tempfile::TempDir;

use crate::support::client::{check, get, json};
use crate::support::{Replica, Wait, call};

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

/// Replaces the file by a rename, so that no reader sees half of it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn settings(limit: &str) -> String {
    format!("[default]\nlimit = \"{limit}\"\n")
}

/// Waits until the log contains the part this number of times.
async fn until_said(server: &Replica, part: &str, times: usize) {
    let wait = Wait::until(format!("the server has said {part:?} {times} times"));
    while server.log().matches(part).count() < times {
        wait.on().await;
    }
}

#[tokio::test]
async fn changed_file_is_taken_over() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Replica::configured(&path, &[]);
    assert_eq!(limit(&server).await, 10);
    // Into the file, and in its place, as editors do it.
    fs::write(&path, settings("20/1d")).unwrap();
    until_limit(&server, 20).await;
    replace(&path, &settings("30/1d"));
    until_limit(&server, 30).await;
}

/// As Kubernetes does it: the file is a link to a link, which is replaced.
#[tokio::test]
async fn changed_link_is_taken_over() {
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
    let server = Replica::configured(&path("server.toml"), &[]);
    assert_eq!(limit(&server).await, 10);
    link("second");
    until_limit(&server, 20).await;
}

#[tokio::test]
async fn signal_reloads() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Replica::configured(&path, &[]);
    replace(&path, &settings("20/1d"));
    server.signal("HUP");
    until_limit(&server, 20).await;
    // An unchanged file is read again too.
    let before = server.log().matches("was read again").count();
    server.signal("HUP");
    until_said(&server, "was read again", before + 1).await;
}

#[tokio::test]
async fn bad_configuration_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Replica::configured(&path, &[("ADMIN__TOKENS__ALICE", "token-of-alice-1234")]);
    let bad = [
        (
            "[default]\nlimit = 7\n",
            "server.toml:2: default.limit: must be a quota",
        ),
        (
            "[default]\nlimit = \"0/1s\"\n",
            "server.toml:2: default.limit: a quota's limit",
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
    for (index, (text, reason)) in bad.into_iter().enumerate() {
        replace(&path, text);
        until_said(&server, "was refused", index + 1).await;
        assert!(server.log().contains(reason), "{reason}: {}", server.log());
        assert_eq!(limit(&server).await, 10, "{text}");
        let token = [("authorization", "Bearer token-of-alice-1234")];
        let told = call(Method::GET, server.admin(), "/configuration", &token, "").await;
        let told = json(&told)["refused"].as_str().unwrap().to_owned();
        assert!(told.contains(reason), "{told}");
    }
    let metrics = get(server.http(), "/metrics").await;
    let refused = r#"tollgate_server_reloads_total{result="refused"} 6"#;
    assert!(metrics.body().contains(refused), "{}", metrics.body());
    // The next good configuration is taken over.
    replace(&path, &settings("20/1d"));
    until_limit(&server, 20).await;
}

#[tokio::test]
async fn changed_file_of_rules_is_taken_over() {
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
    let server = Replica::configured(&path, &[]);
    // A new file with a mistake, and its correction.
    write("many");
    replace(&path, "[envoy]\nfiles = [\"rules.yaml\"]\n");
    until_said(&server, "was refused", 1).await;
    let mistake = "rules.yaml:6: descriptors[0].rate_limit.requests_per_unit: must be";
    assert!(server.log().contains(mistake), "{}", server.log());
    write("5");
    until_said(&server, "was read again", 1).await;
    write("6");
    until_said(&server, "was read again", 2).await;
}

#[tokio::test]
async fn deeply_nested_rules_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    let rules = directory.path().join("rules.yaml");
    replace(&rules, "domain: edge\n");
    replace(&path, "[envoy]\nfiles = [\"rules.yaml\"]\n");
    let server = Replica::configured(&path, &[]);
    for (index, nested) in ["- ", "? ", "["].into_iter().enumerate() {
        let rule = format!("domain: edge\ndescriptors:\n  {}\n", nested.repeat(20_000));
        replace(&rules, &rule);
        until_said(&server, "was refused", index + 1).await;
    }
    assert_eq!(get(server.http(), "/health").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn changed_log_filter_is_taken_over() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    let log = |filter: &str, limit: &str| {
        let settings = settings(limit);
        replace(&path, &format!("{settings}[log]\nfilter = \"{filter}\"\n"));
    };
    log("error", "10/1d");
    let server = Replica::configured(&path, &[]);
    assert_eq!(server.log(), "");
    log("info", "30/1d");
    until_said(&server, "was read again", 1).await;
    assert_eq!(limit(&server).await, 30);
    let before = server.log();
    // The second reload is begun only after the first one would have been logged.
    for limit in [40, 50] {
        log("off", &format!("{limit}/1d"));
        until_limit(&server, limit).await;
    }
    assert_eq!(server.log(), before);
}

#[tokio::test]
async fn changed_log_format_does_not_stop_other_changes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    replace(&path, &settings("10/1d"));
    let server = Replica::configured(&path, &[]);
    let format = "[log]\nformat = \"json\"\n";
    replace(&path, &format!("{}{format}", settings("20/1d")));
    until_limit(&server, 20).await;
    server.until_it_says("log.format needs a restart").await;
    until_said(&server, "was read again", 1).await;
}
