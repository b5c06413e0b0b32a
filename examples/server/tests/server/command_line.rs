//! Commands that send requests to a running server.

use std::net::TcpListener;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::replica::program;
use crate::support::servers::skip;
use crate::support::{Replica, file};

struct Shell {
    server: Replica,
}

impl Shell {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut program = program();
        program
            .env("TOLLGATE_SERVER", format!("http://{}", self.server.http()))
            .env("TOLLGATE_ADMIN", format!("http://{}/", self.server.admin()))
            .env("TOLLGATE_TOKEN", "token-of-tenant-acme")
            .env("TOLLGATE_ADMIN_TOKEN", "token-of-the-operator");
        program.args(arguments).output().unwrap()
    }

    /// Returns the printed JSON, and the exit code.
    fn json(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{said}"));
        (value, output.status.code().unwrap())
    }

    /// Returns the error message of a command that fails.
    fn failure(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[tokio::test]
async fn commands() {
    let server = Replica::start(&[
        ("ADMIN__TOKENS__OPERATOR", "token-of-the-operator"),
        ("TENANTS__ACME__TOKENS", "[\"token-of-tenant-acme\"]"),
        ("DEFAULT__LIMIT", "10/1d"),
    ]);
    let shell = Shell { server };
    let given = ["check", "a b/c", "--rate", "1", "--interval", "1d"];
    let (said, code) = shell.json(&given);
    assert_eq!((&said["allowed"], code), (&json!(true), 0));
    let (said, code) = shell.json(&given);
    assert_eq!((&said["allowed"], code), (&json!(false), 1));
    let (said, code) = shell.json(&["status", "a b/c", "--rate", "1", "--interval", "1d"]);
    assert_eq!((&said["remaining"], code), (&json!(0), 0));
    let windows = [
        "check",
        "a",
        "--rate",
        "9",
        "--interval",
        "1d",
        "--algorithm",
        "fixed_window",
    ];
    assert_eq!(shell.json(&windows).0["limit"], json!(9));
    let (said, _) = shell.json(&["check", "a", "--cost", "4", "--tenant", "acme"]);
    assert_eq!(
        (&said["limit"], &said["remaining"]),
        (&json!(10), &json!(6))
    );

    let (said, _) = shell.json(&["limits", "set", "tenants/acme", "20/1d", "--if-absent"]);
    let version = said["version"].as_str().unwrap();
    assert_eq!(shell.json(&["status", "a"]).0["limit"], json!(20));
    let failure = shell.failure(&["limits", "set", "tenants/acme", "30/1d", "--if-absent"]);
    assert!(failure.contains("changed by another write"), "{failure}");
    let several = ["burst=30/1d", "daily=sliding 40/1d"];
    let set = [
        &["limits", "set", "tenants/acme"],
        &several[..],
        &["--if-version", version],
    ];
    let (said, _) = shell.json(&set.concat());
    assert_eq!(
        said["limits"],
        json!({"burst": "30/1d", "daily": "sliding 40/1d"})
    );
    shell.json(&["limits", "set", "keys/acme/a b/c", "50/1d"]);
    let (said, _) = shell.json(&["limits", "get", "keys/acme/a b/c"]);
    assert_eq!(
        (&said["limits"], &said["source"]),
        (&json!({"default": "50/1d"}), &json!("runtime"))
    );
    assert_eq!(shell.json(&["status", "a b/c"]).0["limit"], json!(50));
    let output = shell.run(&["limits", "list"]);
    let list = String::from_utf8(output.stdout).unwrap();
    let list: Vec<Value> = list
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let subjects: Vec<_> = list
        .iter()
        .map(|item| item["subject"].as_str().unwrap())
        .collect();
    assert_eq!(subjects, ["keys/acme/a b/c", "tenants/acme"]);
    let failure = shell.failure(&["limits", "delete", "tenants/acme", "--if-version", version]);
    assert!(failure.contains("412"), "{failure}");
    assert!(
        shell
            .run(&["limits", "delete", "tenants/acme"])
            .status
            .success()
    );
    assert_eq!(shell.json(&["status", "a"]).0["limit"], json!(10));

    let failures: [(&[&str], &str); 7] = [
        (&["limits", "get", "tenants/nobody"], "404"),
        (&["limits", "get", "acme"], "write tenants/<tenant>"),
        (&["limits", "set", "tenants/acme", "often"], "`limits`"),
        (
            &["limits", "set", "tenants/acme", "1/1s", "2/1s"],
            "has no name",
        ),
        (
            &["check", "a", "--rate", "0", "--interval", "1d"],
            "`rate`: must be at least 1",
        ),
        (&["check", "a", "--rate", "1"], "--interval"),
        (&["check", "a", "--token", "another"], "401"),
    ];
    for (arguments, reason) in failures {
        let failure = shell.failure(arguments);
        assert!(failure.contains(reason), "{arguments:?}: {failure}");
        assert!(!failure.contains("token-of"), "{failure}");
    }
    let nobody = ["check", "a", "--server", "http://127.0.0.1:1"];
    assert!(shell.failure(&nobody).contains("cannot reach"));
    let secure = ["check", "a", "--server", "https://127.0.0.1:1"];
    assert!(shell.failure(&secure).contains("write http://"));
}

/// Runs a command with these variables.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut program = program();
    program.args(arguments).envs(variables.iter().copied());
    program.output().unwrap()
}

const HTTP: &str = "TOLLGATE__LISTEN__HTTP";

#[test]
fn health_follows_the_listen_address() {
    let mut addresses = vec!["127.0.0.1:0", "0.0.0.0:0"];
    match TcpListener::bind("[::1]:0") {
        Ok(_) => addresses.push("[::]:0"),
        Err(error) => skip(&format!("a server on [::] ({error})")),
    }
    for address in addresses {
        let server = Replica::start(&[("LISTEN__HTTP", address)]);
        let listens = server.http().to_string();
        for name in [HTTP, "TOLLGATE__listen__http"] {
            let output = run(&["health"], &[(name, &listens)]);
            assert!(output.status.success(), "{name}={listens}: {output:?}");
        }
        drop(server);
        let output = run(&["health"], &[(HTTP, &listens)]);
        assert_eq!(output.status.code(), Some(1), "{listens}: {output:?}");
    }
}

#[test]
fn server_option_precedes_variables() {
    let server = Replica::start(&[]);
    let url = format!("http://{}", server.http());
    let listens = server.http().to_string();
    let (nowhere, nowhere_url) = ("127.0.0.1:1", "http://127.0.0.1:1");
    let health = |option: &[&str], variables: &[(&str, &str)]| {
        let output = run(&[&["health"], option].concat(), variables);
        output.status.success()
    };
    assert!(health(
        &["--server", &url],
        &[("TOLLGATE_SERVER", nowhere_url), (HTTP, nowhere)]
    ));
    assert!(!health(
        &["--server", nowhere_url],
        &[("TOLLGATE_SERVER", &url), (HTTP, &listens)]
    ));
    assert!(health(&[], &[("TOLLGATE_SERVER", &url), (HTTP, nowhere)]));
    assert!(!health(
        &[],
        &[("TOLLGATE_SERVER", nowhere_url), (HTTP, &listens)]
    ));
}

#[test]
fn all_commands_follow_the_listen_addresses() {
    let server = Replica::start(&[("ADMIN__TOKENS__OPERATOR", "token-of-the-operator")]);
    let http = server.http().to_string();
    let admin = server.admin().to_string();
    let variables = [
        (HTTP, &*http),
        ("TOLLGATE__LISTEN__ADMIN", &*admin),
        ("TOLLGATE_ADMIN_TOKEN", "token-of-the-operator"),
    ];
    let commands: [&[&str]; 4] = [
        &["check", "a"],
        &["status", "a"],
        &["load", "--requests", "3", "--json"],
        &["limits", "list"],
    ];
    for command in commands {
        let output = run(command, &variables);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
}

#[test]
fn unusable_listen_address_is_named() {
    for address in ["localhost:8080", "0.0.0.0", "0.0.0.0:0", ""] {
        for (command, code) in [("health", 1), ("load", 2)] {
            let output = run(&[command], &[(HTTP, address)]);
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(error.contains(&format!("{HTTP} is {address:?}")), "{error}");
        }
    }
}

#[tokio::test]
async fn limits_list_reads_every_page() {
    let keys = (0..1_500).map(|key| format!("k{key:04} = \"1/1d\"\n"));
    let text = format!(
        "[tiers]\npro = \"1/1d\"\n[tenants.acme.keys]\n{}",
        keys.collect::<String>()
    );
    let file = file(&text);
    let token = ("ADMIN__TOKENS__OPERATOR", "token-of-the-operator");
    let shell = Shell {
        server: Replica::configured(file.path(), &[token]),
    };
    let list = |arguments: &[&str]| {
        let output = shell.run(&[&["limits", "list"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let items = text.lines().map(serde_json::from_str::<Value>);
        let subjects = items.map(|item| item.unwrap()["subject"].as_str().unwrap().to_owned());
        subjects.collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = (0..1_500)
        .map(|key| format!("keys/acme/k{key:04}"))
        .collect();
    assert_eq!(list(&["--prefix", "keys/acme/k00"]), expected[..100]);
    assert_eq!(list(&["--prefix", "keys/"]), expected);
    expected.push("tiers/pro".to_owned());
    assert_eq!(list(&[]), expected);
    assert!(
        shell
            .failure(&["limits", "list", "--prefix", "acme"])
            .contains("`prefix`")
    );
}

#[tokio::test]
async fn limits_set_warns_of_unknown_subject() {
    let server = Replica::start(&[("ADMIN__TOKENS__OPERATOR", "token-of-the-operator")]);
    let shell = Shell { server };
    let unknown = ["limits", "set", "tenants/acne", "7/1d"];
    let failure = shell.failure(&[&unknown[..], &["--strict"]].concat());
    assert!(
        failure.contains("404") && failure.contains("no tenant \"acne\""),
        "{failure}"
    );
    assert!(
        shell
            .failure(&["limits", "get", "tenants/acne"])
            .contains("404")
    );
    let output = shell.run(&unknown);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("warning: the configuration has no tenant \"acne\""),
        "{said}"
    );
    let output = shell.run(&["limits", "set", "tenants/default", "7/1d", "--strict"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
