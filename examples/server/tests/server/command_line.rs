//! The commands that send requests to a running server.

use std::net::TcpListener;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::admin::TOKEN;
use crate::support::redis_servers::skip;
use crate::support::server::program;
use crate::support::{Server, file, json_lines};

/// Runs commands against a server.
struct CommandLine {
    server: Server,
}

impl CommandLine {
    /// Runs a command with the server's addresses and the tokens in the environment.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut program = program();
        program
            .env("TOLLGATE_SERVER", format!("http://{}", self.server.http()))
            .env("TOLLGATE_ADMIN", format!("http://{}/", self.server.admin()))
            .env("TOLLGATE_TOKEN", "token-of-tenant-acme")
            .env("TOLLGATE_ADMIN_TOKEN", TOKEN);
        program.args(arguments).output().unwrap()
    }

    /// Runs a command that prints JSON, and returns the JSON and the exit code.
    fn json(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.run(arguments);
        let value = serde_json::from_slice(&output.stdout);
        let value = value.unwrap_or_else(|_| panic!("not JSON: {output:?}"));
        (value, output.status.code().unwrap())
    }

    /// Runs a command that fails with code 2, and returns its output on standard error.
    fn failure(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Returns the subjects that `limits list` prints.
    fn list_limits(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.run(&[&["limits", "list"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let items = json_lines(std::str::from_utf8(&output.stdout).unwrap());
        let subjects = items.iter().map(|item| item["subject"].as_str().unwrap());
        subjects.map(str::to_owned).collect()
    }
}

/// Starts a server with an admin token and a tenant.
fn start() -> CommandLine {
    let server = Server::start(&[
        ("ADMIN__TOKENS__OPERATOR", TOKEN),
        ("TENANTS__ACME__TOKENS", "[\"token-of-tenant-acme\"]"),
        ("DEFAULT__LIMIT", "10/1d"),
    ]);
    CommandLine { server }
}

#[tokio::test]
async fn check_and_status_print_the_decision() {
    let commands = start();
    let once_a_day = ["a b/c", "--rate", "1", "--interval", "1d"];
    let check = [&["check"], &once_a_day[..]].concat();
    let (decision, code) = commands.json(&check);
    assert_eq!((&decision["allowed"], code), (&json!(true), 0));
    let (decision, code) = commands.json(&check);
    assert_eq!((&decision["allowed"], code), (&json!(false), 1));
    let (status, code) = commands.json(&[&["status"], &once_a_day[..]].concat());
    assert_eq!((&status["remaining"], code), (&json!(0), 0));
    let fixed_window = [
        "check",
        "a",
        "--rate",
        "9",
        "--interval",
        "1d",
        "--algorithm",
        "fixed_window",
    ];
    let (decision, _) = commands.json(&fixed_window);
    assert_eq!(decision["limit"], json!(9));
    let (decision, _) = commands.json(&["check", "a", "--cost", "4", "--tenant", "acme"]);
    assert_eq!(
        (&decision["limit"], &decision["remaining"]),
        (&json!(10), &json!(6))
    );
}

#[tokio::test]
async fn limits_commands_change_limits() {
    let commands = start();
    let limit_of = |key: &str| commands.json(&["status", key]).0["limit"].clone();
    let (set, _) = commands.json(&["limits", "set", "tenants/acme", "20/1d", "--if-absent"]);
    let version = set["version"].as_str().unwrap();
    assert_eq!(limit_of("a"), json!(20));
    let failure = commands.failure(&["limits", "set", "tenants/acme", "30/1d", "--if-absent"]);
    assert!(failure.contains("changed by another write"), "{failure}");
    let several = ["burst=30/1d", "daily=sliding 40/1d"];
    let set_several = [
        &["limits", "set", "tenants/acme"],
        &several[..],
        &["--if-version", version],
    ];
    let (set, _) = commands.json(&set_several.concat());
    assert_eq!(
        set["limits"],
        json!({"burst": "30/1d", "daily": "sliding 40/1d"})
    );
    commands.json(&["limits", "set", "keys/acme/a b/c", "50/1d"]);
    let (item, _) = commands.json(&["limits", "get", "keys/acme/a b/c"]);
    assert_eq!(
        (&item["limits"], &item["source"]),
        (&json!({"default": "50/1d"}), &json!("runtime"))
    );
    assert_eq!(limit_of("a b/c"), json!(50));
    assert_eq!(
        commands.list_limits(&[]),
        ["keys/acme/a b/c", "tenants/acme"]
    );
    let failure = commands.failure(&["limits", "delete", "tenants/acme", "--if-version", version]);
    assert!(failure.contains("412"), "{failure}");
    let deleted = commands.run(&["limits", "delete", "tenants/acme"]);
    assert!(deleted.status.success(), "{deleted:?}");
    assert_eq!(limit_of("a"), json!(10));
}

#[tokio::test]
async fn failed_command_explains_the_error() {
    let commands = start();
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
        let failure = commands.failure(arguments);
        assert!(failure.contains(reason), "{arguments:?}: {failure}");
        assert!(!failure.contains("token-of"), "{failure}");
    }
    let closed_port = ["check", "a", "--server", "http://127.0.0.1:1"];
    assert!(commands.failure(&closed_port).contains("cannot reach"));
    let https = ["check", "a", "--server", "https://127.0.0.1:1"];
    let failure = commands.failure(&https);
    let expected = "--server `https://127.0.0.1:1` is not a URL: write http://host:port";
    assert!(failure.contains(expected), "{failure}");
    let failure = commands.failure(&["check", "a", "--server", "localhost:1"]);
    let expected = "--server `localhost:1` is not a URL: write http://host:port";
    assert!(failure.contains(expected), "{failure}");
}

/// Runs a command with these variables in the environment.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut program = program();
    program.args(arguments).envs(variables.iter().copied());
    program.output().unwrap()
}

const HTTP: &str = "TOLLGATE__LISTEN__HTTP";

#[test]
fn health_uses_the_listen_address_of_the_server() {
    let mut addresses = vec!["127.0.0.1:0", "0.0.0.0:0"];
    match TcpListener::bind("[::1]:0") {
        Ok(_) => addresses.push("[::]:0"),
        Err(error) => skip(&format!("a server on [::] ({error})")),
    }
    for address in addresses {
        let server = Server::start(&[("LISTEN__HTTP", address)]);
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
    let server = Server::start(&[]);
    let url = format!("http://{}", server.http());
    let listens = server.http().to_string();
    let (closed_port, closed_url) = ("127.0.0.1:1", "http://127.0.0.1:1");
    let health = |option: &[&str], variables: &[(&str, &str)]| {
        let output = run(&[&["health"], option].concat(), variables);
        output.status.success()
    };
    assert!(health(
        &["--server", &url],
        &[("TOLLGATE_SERVER", closed_url), (HTTP, closed_port)]
    ));
    assert!(!health(
        &["--server", closed_url],
        &[("TOLLGATE_SERVER", &url), (HTTP, &listens)]
    ));
    assert!(health(
        &[],
        &[("TOLLGATE_SERVER", &url), (HTTP, closed_port)]
    ));
    assert!(!health(
        &[],
        &[("TOLLGATE_SERVER", closed_url), (HTTP, &listens)]
    ));
}

#[test]
fn every_command_uses_the_listen_addresses() {
    let server = Server::start(&[("ADMIN__TOKENS__OPERATOR", TOKEN)]);
    let http = server.http().to_string();
    let admin = server.admin().to_string();
    let variables = [
        (HTTP, &*http),
        ("TOLLGATE__LISTEN__ADMIN", &*admin),
        ("TOLLGATE_ADMIN_TOKEN", TOKEN),
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
fn unusable_listen_address_is_in_the_error() {
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
    let token = ("ADMIN__TOKENS__OPERATOR", TOKEN);
    let commands = CommandLine {
        server: Server::with_config(file.path(), &[token]),
    };
    let mut expected: Vec<_> = (0..1_500)
        .map(|key| format!("keys/acme/k{key:04}"))
        .collect();
    let list = |prefix| commands.list_limits(&["--prefix", prefix]);
    assert_eq!(list("keys/acme/k00"), expected[..100]);
    assert_eq!(list("keys/"), expected);
    expected.push("tiers/pro".to_owned());
    assert_eq!(commands.list_limits(&[]), expected);
    let failure = commands.failure(&["limits", "list", "--prefix", "acme"]);
    assert!(failure.contains("`prefix`"), "{failure}");
}

#[tokio::test]
async fn limits_set_warns_of_unknown_subject() {
    let server = Server::start(&[("ADMIN__TOKENS__OPERATOR", TOKEN)]);
    let commands = CommandLine { server };
    let set_unknown = ["limits", "set", "tenants/acne", "7/1d"];
    let failure = commands.failure(&[&set_unknown[..], &["--strict"]].concat());
    assert!(
        failure.contains("404") && failure.contains("no tenant \"acne\""),
        "{failure}"
    );
    let failure = commands.failure(&["limits", "get", "tenants/acne"]);
    assert!(failure.contains("404"), "{failure}");
    let output = commands.run(&set_unknown);
    assert!(output.status.success(), "{output:?}");
    let warning = String::from_utf8(output.stderr).unwrap();
    let expected = "warning: the configuration has no tenant \"acne\"";
    assert!(warning.contains(expected), "{warning}");
    let output = commands.run(&["limits", "set", "tenants/default", "7/1d", "--strict"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
