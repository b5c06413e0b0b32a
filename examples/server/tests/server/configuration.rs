//! Mistakes in a configuration are told with file, line and field, and every value can be
//! overridden by the environment.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::support::Replica;
use crate::support::client::{check, json};
use crate::support::replica::program;

const GOOD: &str = r#"
[listen]
http = "127.0.0.1:0"

[store]
kind = "local"
capacity = 1000
deadline = "20ms"
failure = "closed"

[log]
filter = "warn,tollgate=info"
format = "json"

[shutdown]
delay = "0s"
deadline = "5s"

[limits]
free = "60/1m burst 5"
paid = { burst = "50/1s", daily = "sliding 100000/1d" }

[default]
tenant = "public"
limit = "free"

[tiers]
pro = "paid"
trial = "fixed 10/1h"

[tenants.acme]
tier = "pro"
tokens = ["a token"]
[tenants.acme.keys]
"a key of any text" = "1/1d"

[authentication]
required = false

[admin.tokens]
operator = "sha256:5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"

[envoy]
response_headers = true
[[envoy.domains]]
domain = "edge"
[[envoy.domains.descriptors]]
key = "remote_address"
rate_limit = { unit = "second", requests_per_unit = 5 }
[[envoy.domains.descriptors.descriptors]]
key = "path"
value = "/login"
shadow_mode = true
rate_limit = { unit = "MINUTE", requests_per_unit = 1, name = "login", replaces = [{ name = "all" }] }
"#;

/// What `validate` says, with these variables: nothing, if it is good.
fn validate(directory: &Path, text: &str, variables: &[(&str, &str)]) -> String {
    let path = directory.join("server.toml");
    fs::write(&path, text).unwrap();
    let mut program = program();
    program.arg("validate").arg("server.toml");
    program
        .current_dir(directory)
        .envs(variables.iter().copied());
    let output = program.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

#[test]
fn a_good_one() {
    let directory = TempDir::new().unwrap();
    assert_eq!(validate(directory.path(), GOOD, &[]), "");
    assert_eq!(validate(directory.path(), "", &[]), "");
}

#[test]
fn those_of_the_readme() {
    let directory = TempDir::new().unwrap();
    let rules = "domain: edge\n";
    fs::write(directory.path().join("edge.yaml"), rules).unwrap();
    let blocks = include_str!("../../README.md").split("```toml\n").skip(1);
    let blocks: Vec<_> = blocks
        .filter_map(|block| block.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 2, "the rules, and all of it");
    for block in blocks {
        assert_eq!(validate(directory.path(), block, &[]), "", "{block}");
    }
}

#[test]
fn mistakes() {
    let directory = TempDir::new().unwrap();
    let mistakes = [
        // Before, after, line, and the field with how the problem begins.
        (
            "http = \"127.0.0.1:0\"",
            "http = \"localhost\"",
            3,
            "listen.http: \"localhost\" is no",
        ),
        (
            "http = ",
            "htp = ",
            3,
            "listen.htp: there is no such field; there are: http,",
        ),
        (
            "capacity = 1000",
            "capacity = 0",
            7,
            "store.capacity: must be an integer from 1 ",
        ),
        (
            "capacity = 1000",
            "capacity = \"x\"",
            7,
            "store.capacity: must be an integer, not",
        ),
        (
            "capacity = 1000",
            "prefix = \"x\"",
            7,
            "store.prefix: the store is local, ",
        ),
        (
            "kind = \"local\"",
            "kind = \"redis\"",
            7,
            "store.capacity: the store is redis, ",
        ),
        (
            "\"20ms\"",
            "\"20\"",
            8,
            "store.deadline: \"20\" is no duration",
        ),
        (
            "\"20ms\"",
            "\"0s\"",
            8,
            "store.deadline: must be longer than nothing",
        ),
        (
            "\"closed\"",
            "\"shut\"",
            9,
            "store.failure: \"shut\" is none of open, ",
        ),
        (
            "60/1m burst 5",
            "60",
            20,
            "limits.free: \"60\" is neither a quota,",
        ),
        (
            "50/1s",
            "50/1x",
            21,
            "limits.paid.burst: `50/1x` is no quota",
        ),
        (
            "\"free\"",
            "\"cheap\"",
            25,
            "default.limit: \"cheap\" is neither",
        ),
        (
            "\"public\"",
            "\"the public\"",
            24,
            "default.tenant: `the public` cannot be",
        ),
        (
            "tier = \"pro\"",
            "tier = \"por\"",
            32,
            "tenants.acme.tier: there is no tier \"por\"",
        ),
        (
            "[\"a token\"]",
            "[\"\"]",
            33,
            "tenants.acme.tokens[0]: must not be empty",
        ),
        (
            "= \"1/1d\"",
            "= \"0/1d\"",
            35,
            "tenants.acme.keys.\"a key of any text\": a quota's",
        ),
        (
            "required = false",
            "required = 1",
            38,
            "authentication.required: must be true or",
        ),
        (
            "sha256:5f",
            "sha256:",
            41,
            "admin.tokens.operator: after `sha256:` must come 64",
        ),
        (
            "\"second\"",
            "\"fortnight\"",
            49,
            "envoy.domains[0].descriptors[0].rate_limit.unit: ",
        ),
        (
            "value = \"/login\"",
            "valeu = \"/login\"",
            52,
            "envoy.domains[0].descriptors[0].descriptors[0].valeu: ",
        ),
        (
            "name = \"all\"",
            "name = \"login\"",
            54,
            "envoy.domains[0].descriptors[0].descriptors[0].rate_limit.replaces[0].name: a limit cannot",
        ),
        ("[admin.tokens]", "[admin", 40, "this is no TOML"),
    ];
    for (before, after, line, problem) in mistakes {
        assert!(GOOD.contains(before), "{before}");
        let text = GOOD.replacen(before, after, 1);
        let said = validate(directory.path(), &text, &[]);
        let expected = format!("tollgate-server: server.toml:{line}: {problem}");
        assert!(said.starts_with(&expected), "{said}instead of {expected}");
    }
    let required = GOOD.replace("required = false", "");
    let said = validate(directory.path(), &required, &[]);
    assert!(
        said.contains("server.toml:43: envoy: callers must authenticate"),
        "{said}"
    );
    assert!(!said.contains("a token"), "{said}");
}

#[test]
fn files_of_rules() {
    let directory = TempDir::new().unwrap();
    let settings = "[envoy]\nfiles = [\"rules.yaml\"]\n";
    let said = validate(directory.path(), settings, &[]);
    let expected = "tollgate-server: server.toml:2: envoy.files[0]: rules.yaml cannot be read";
    assert!(said.starts_with(expected), "{said}");
    let mistakes = [
        ("domain: [", "2: this is no YAML"),
        ("descriptors: []\n", "1: `domain` is missing"),
        (
            "domain: a\n---\ndomain: b\n",
            "3: the file has a second document",
        ),
        (
            "domain: a\ndescriptors:\n  - key: k\n  - key: k\n",
            "4: descriptors[1]: there is another",
        ),
        (
            "domain: a\ndescriptors:\n  - value: k\n",
            "3: descriptors[0]: `key` is missing",
        ),
        (
            "domain: a\ndescriptors:\n  - key: k\n    share_threshold: true\n",
            "4: descriptors[0].share_threshold: only values with",
        ),
        (
            "domain: a\ndescriptors:\n  - key: k\n    rate_limit:\n      unlimited: true\n      unit: day\n",
            "6: descriptors[0].rate_limit.unit: an unlimited rule",
        ),
        (
            "domain: a\ndescriptors:\n  - key: k\n    rate_limit:\n      unit: year\n      requests_per_unit: 4294967296\n",
            "6: descriptors[0].rate_limit.requests_per_unit: ",
        ),
    ];
    for (text, problem) in mistakes {
        fs::write(directory.path().join("rules.yaml"), text).unwrap();
        let said = validate(directory.path(), settings, &[]);
        let expected = format!("tollgate-server: rules.yaml:{problem}");
        assert!(said.starts_with(&expected), "{said}instead of {expected}");
    }
}

#[test]
fn values_of_the_environment() {
    let directory = TempDir::new().unwrap();
    let good = [
        ("TOLLGATE__STORE__URL", "redis://127.0.0.1:6379"),
        ("TOLLGATE__TENANTS__ACME__KEYS__USER", "5/1s"),
        ("TOLLGATE__LIMITS__PAID", "{ burst = \"5/1s\" }"),
        ("TOLLGATE__ADMIN__TOKENS__OPERATOR", "12345"),
        ("TOLLGATE__TENANTS__ACME__TOKENS", "[\"one\", \"two\"]"),
        ("TOLLGATE__STORE__FALLBACK_CAPACITY", "50_000"),
        ("TOLLGATE__AUTHENTICATION__REQUIRED", "false"),
        ("TOLLGATE__DEFAULT__TENANT", "\"quoted\""),
        ("TOLLGATE__ENVOY__DOMAINS__0__DOMAIN", "other"),
    ];
    let text = GOOD.replace("kind = \"local\"\ncapacity = 1000\n", "");
    assert_eq!(validate(directory.path(), &text, &good), "");
    let bad = [
        (
            ("TOLLGATE__STORE__DEADLINE", "soon"),
            "store.deadline: \"soon\" is no duration",
        ),
        (
            ("TOLLGATE__STORE__DEADLIN", "1s"),
            "store.deadlin: there is no such field",
        ),
        (
            ("TOLLGATE__TENANTS__ACME__TIER", "por"),
            "tenants.acme.tier: there is no tier",
        ),
        (
            ("TOLLGATE__TENANTS__ACME__TOKENS__7", "x"),
            "`7` is no place in a list of 1",
        ),
        (
            ("TOLLGATE__STORE__KIND__X", "x"),
            "there is no `X` in a text",
        ),
        (("TOLLGATE__", "x"), "names no field"),
    ];
    for (variable, problem) in bad {
        let said = validate(directory.path(), GOOD, &[variable]);
        let expected = format!("tollgate-server: {}: {problem}", variable.0);
        assert!(said.starts_with(&expected), "{said}instead of {expected}");
    }
}

#[tokio::test]
async fn the_environment_wins() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    fs::write(&path, "[default]\nlimit = \"10/1d\"\n").unwrap();
    let server = Replica::configured(&path, &[("DEFAULT__LIMIT", "20/1d")]);
    let said = json(&check(server.http(), r#"{"key":"a"}"#).await);
    assert_eq!(said["limit"], json!(20));
}
