//! Tests of all parsers with random inputs: no input may panic, and neither errors nor `Debug`
//! output may show a secret.
//!
//! `TOLLGATE_FUZZ_INPUTS` sets the number of inputs of each test. The inputs are the same in each
//! run.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use tollgate::Limits;

use crate::configuration::{
    Configuration, ConfigurationError, Field, Node, Sources, Value, from_toml, from_yaml,
    read_domain,
};
use crate::decision::{Algorithm, parse_caller_limit};
use crate::envoy::{CountKey, Rules};
use crate::http::json;
use crate::limits::LimitSubject;

/// A part of each secret in [`SERVER`].
const SECRET: &str = "hunter2";

const SERVER: &str = r#"
[listen]
http = "127.0.0.1:8080"
[store]
kind = "redis"
url = "redis://:hunter2-secret@127.0.0.1:6379"
prefix = "tollgate"
connections = 1
deadline = "50ms"
failure = "open"
replicas = 3
fallback_capacity = 100_000
[limits]
free = "60/1m burst 10"
paid = { burst = "50/1s", daily = "100000/1d" }
[default]
limit = "free"
tenant = "default"
[tiers]
pro = "paid"
[tenants.acme]
tier = "pro"
tokens = ["tenant-hunter2-secret", "sha256:80f196a8c8fcbdecce7c3c1d44bcd50539617f29e98e5162ca24f75c693e1936"]
[tenants.acme.keys]
"user:42" = "5/1s"
[authentication]
required = true
[authentication.jwt]
audience = "limits"
issuer = "https://login.example"
tenant_claim = "tenant"
leeway = "30s"
[[authentication.jwt.keys]]
algorithm = "HS256"
secret = "hunter2-secret-hunter2-secret-hunter2-secret"
id = "2026-11"
[admin.tokens]
alice = "admin-hunter2-secret"
[envoy]
tokens = ["envoy-hunter2-secret"]
[[envoy.domains]]
domain = "shop"
[[envoy.domains.descriptors]]
key = "remote_address"
rate_limit = { unit = "second", requests_per_unit = 5 }
[log]
filter = "info"
format = "text"
[shutdown]
delay = "1s"
deadline = "10s"
"#;

const RULES: &str = r#"
domain: edge
descriptors:
- key: remote_address
  rate_limit: {unit: second, requests_per_unit: 5, name: a}
  shadow_mode: true
- key: path
  value: "/api/*/x*"
  share_threshold: true
  rate_limit:
    unit: minute
    requests_per_unit: 100
    replaces: [{name: a}]
  descriptors:
  - key: user
    detailed_metric: true
    metadata: {a: [1, ~, true, {b: c}], d: "e"}
    rate_limit: {unlimited: true}
"#;

const BODY: &str = r#"{"key": "user:42", "tenant": "acme", "cost": 2, "rate": 5, "interval": "1m",
    "burst": 3, "algorithm": "fixed_window", "limits": {"burst": "50/1s", "daily": "100000/1d"}}"#;

/// Random numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// Returns a number from 0 to `end`, exclusive.
    fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    fn choose<'a, T: ?Sized>(&mut self, rules: &[&'a T]) -> &'a T {
        rules[self.below(rules.len())]
    }

    /// Joins up to `max` of the pieces.
    fn text(&mut self, pieces: &[&str], max: usize) -> String {
        (0..self.below(max + 1))
            .map(|_| self.choose(pieces))
            .collect()
    }

    /// Makes one to four random changes to a text.
    fn changed(&mut self, text: &str, pieces: &[&str]) -> String {
        let mut text = text.to_owned();
        for _ in 0..1 + self.below(4) {
            let bound = |text: &str, offset: usize| text.floor_char_boundary(offset);
            let start = bound(&text, self.below(text.len() + 1));
            let end = bound(&text, (start + self.below(12)).min(text.len())).max(start);
            match self.below(7) {
                0 => text.replace_range(start..end, ""),
                1 => text.insert(start, char::from(self.below(128) as u8)),
                2 => text.truncate(start),
                3 => {
                    let piece = text[start..end].to_owned();
                    let offset = bound(&text, self.below(text.len() + 1));
                    text.insert_str(offset, &piece);
                }
                4 => text.insert(start, '\n'),
                5 => text.insert_str(start, &self.choose(pieces).repeat(1 + self.below(100))),
                _ => text.insert_str(start, self.choose(pieces)),
            }
        }
        text
    }
}

/// Prints the number of the input if the test panics.
struct Input(u64);

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input number {}", self.0);
        }
    }
}

/// Runs a test with `TOLLGATE_FUZZ_INPUTS` seeds.
fn fuzz(mut test: impl FnMut(&mut Random)) {
    let inputs = std::env::var("TOLLGATE_FUZZ_INPUTS").ok();
    for number in 0..inputs.map_or(2_000, |inputs| inputs.parse().expect("a number")) {
        let _input = Input(number);
        test(&mut Random(number));
    }
}

/// Returns whether a secret is in a field whose errors may show the value.
fn shows_secret(node: &Node, path: &mut Vec<String>) -> bool {
    match &node.value {
        Value::Text(text) | Value::Plain(text) => {
            let path: Vec<_> = path.iter().map(String::as_str).collect();
            match path[..] {
                // The password ends at the last `@`. Errors may show the scheme and the host.
                ["store", "url"] => text.split_once("://").is_some_and(|(scheme, rest)| {
                    let host = rest.rsplit('@').next();
                    scheme.contains(SECRET) || host.is_some_and(|host| host.contains(SECRET))
                }),
                ["tenants", _, "tokens"]
                | ["authentication", "jwt", "keys", "secret" | "public_key"]
                | ["admin", "tokens", _]
                | ["envoy", "tokens"] => false,
                _ => text.contains(SECRET),
            }
        }
        Value::List(items) => items.iter().any(|item| shows_secret(item, path)),
        Value::Table(entries) => entries.iter().any(|(name, entry)| {
            path.push(name.clone());
            let shows = name.contains(SECRET) || shows_secret(entry, path);
            path.pop();
            shows
        }),
        _ => false,
    }
}

fn configuration(
    root: Node,
    variables: Vec<(String, String)>,
) -> Result<Configuration, ConfigurationError> {
    let directory = Path::new("/nonexistent");
    Configuration::from_tree(root, variables, directory, &mut Sources::default())
}

#[test]
fn fuzz_server_toml() {
    #[rustfmt::skip]
    let pieces = [
        "[", "]", "{", "}", "\"", "\"\"\"", "'''", "=", ".", "a.", "{a=", "[[a]]", "\n[a]\n",
        "9223372036854775808", "0x7fffffffffffffff", "-1", "1e9", "inf", "1979-05-27", "true",
        "[\"a\"]", "{}", "99999999999999999999d", "1000y", "0/1s", "4294967295/1us",
        "sliding 1/1ms", "burst 0", "\0", "é", "999999999999h", "18446744073709551615s", "off",
        "=off", "sha256:", "0.0.0.0:8080", "[::]:8080",
    ];
    let mut accepted = 0;
    fuzz(|random| {
        let text = random.changed(SERVER, &pieces);
        let root = match from_toml(&text, "server.toml") {
            Ok(root) => root,
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("server.toml:"), "{error}");
                assert!(!error.contains(SECRET), "{error}");
                return;
            }
        };
        let may_show = shows_secret(&root, &mut Vec::new());
        let shown = match configuration(root, Vec::new()) {
            Ok(configuration) => {
                accepted += 1;
                format!("{configuration:?}")
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("server.toml:"), "{error}");
                error
            }
        };
        assert!(may_show || !shown.contains(SECRET), "{shown}");
    });
    assert!(accepted > 0, "every input was refused");
}

#[test]
fn fuzz_environment() {
    #[rustfmt::skip]
    let names = [
        "store", "STORE", "url", "limits", "tenants", "acme", "tokens", "0", "1",
        "99999999999999999999", "listen", "http", "", "_", "authentication", "jwt", "keys",
        "secret", "envoy", "domains", "descriptors", "-1", "admin", "alice", "é",
    ];
    #[rustfmt::skip]
    let pieces = [
        "x", "1", "true", "[", "]", "[1]", "{a=1}", "{a=", "a.", "\"a\"", "redis://127.0.0.1",
        "{ burst = \"5/1s\" }", "\n", "[[1]]", "9999999999999999999999", "{", "}", "1s", "-1",
        "hunter2-secret-hunter2",
    ];
    fuzz(|random| {
        let variables: Vec<_> = (0..1 + random.below(3))
            .map(|_| {
                let most = *random.choose(&[&5, &5, &5, &200]);
                let parts = 1 + random.below(most);
                let name: Vec<_> = (0..parts).map(|_| random.choose(&names)).collect();
                let separator = random.choose(&["__", "__", "__", "_"]);
                let name = format!("TOLLGATE__{}", name.join(separator));
                let text = random.text(&pieces, 3);
                (name, text.repeat(1 + random.below(100)))
            })
            .collect();
        let may_show = variables.iter().any(|(_, text)| text.contains(SECRET));
        let root = from_toml(SERVER, "server.toml").expect("a valid configuration");
        if let Err(error) = configuration(root, variables) {
            let error = error.to_string();
            let named = error.starts_with("TOLLGATE__") || error.starts_with("server.toml:");
            assert!(named, "{error}");
            assert!(may_show || !error.contains(SECRET), "{error}");
        }
    });
}

#[test]
fn fuzz_yaml_rules() {
    #[rustfmt::skip]
    let pieces = [
        "&a ", "*a", "<<: *a", "&a [*a, *a]", "!!str ", "!x ", "? ", ": ", "- ", "- - - -", "? ? ?",
        "[[[[", "{{{{", "[", "]", "{", "}", "|\n", ">\n", "---\n", "...\n", "%YAML 1.2\n", "~",
        "\t", "#", "'", "\"", "\u{feff}", "0x10", "1e3", ".inf", "null", "*", "*/*", "\\", "year",
        "4294967295", "é",
    ];
    let mut accepted = 0;
    fuzz(|random| {
        let text = random.changed(RULES, &pieces);
        let read = from_yaml(&text, "rules.yaml").and_then(|root| {
            let mut rules = Rules::default();
            read_domain(&Field::root(&root), &mut rules)?;
            Ok(rules)
        });
        match read {
            Ok(rules) => {
                accepted += 1;
                let descriptors = [
                    &[("remote_address", "1.2.3.4")][..],
                    &[("path", "/api/1/x")],
                    &[("path", "/api/é/xé"), ("user", "")],
                    &[("", "")],
                    &[],
                ];
                for descriptor in descriptors {
                    rules.find("edge", descriptor);
                }
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("rules.yaml:"), "{error}");
            }
        }
    });
    assert!(accepted > 0, "every input was refused");
}

/// The fields of all bodies.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only parsed")]
struct Body {
    key: Option<String>,
    tenant: Option<String>,
    cost: u32,
    rate: Option<u32>,
    interval: Option<String>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
    limits: Option<Limits>,
}

#[test]
fn fuzz_json_bodies() {
    let fields = [
        "key",
        "tenant",
        "cost",
        "rate",
        "interval",
        "burst",
        "algorithm",
        "limits",
    ];
    #[rustfmt::skip]
    let pieces = [
        "[", "]", "{", "}", "{\"a\":", "\"", "\\", "\\ud800", "\\u0000", ",", ":", "null", "true",
        "1e400", "-1", "4294967296", "0.5", "\"cost\":1,", "\"key\":null,", "é", "\u{feff}",
    ];
    let mut accepted = 0;
    fuzz(|random| {
        let text = random.changed(BODY, &pieces);
        match json::parse_object::<Body>(text.as_bytes(), &fields) {
            Ok(_) => {
                accepted += 1;
                let json = serde_json::from_str::<serde_json::Value>(&text);
                assert!(json.is_ok(), "{text}");
            }
            Err(error) => assert!(!error.problem.is_empty(), "{text}"),
        }
    });
    assert!(accepted > 0, "every input was refused");
}

/// Different descriptors have different keys.
#[test]
fn fuzz_envoy_descriptors() {
    let pieces = ["a", ";", "=", "*", "\\", "é", "", ";=", "\\;", "a=b"];
    let mut known = HashMap::new();
    fuzz(|random| {
        let domain = random.text(&pieces, 3);
        let entries: Vec<_> = (0..1 + random.below(3))
            .map(|_| (random.text(&pieces, 3), random.text(&pieces, 3)))
            .collect();
        let mut count_key = CountKey::of(&domain);
        for (key, value) in &entries {
            count_key.add_value(key, value);
        }
        let descriptor = (domain, entries);
        let first = known
            .entry(count_key.into_string())
            .or_insert_with(|| descriptor.clone());
        assert_eq!(*first, descriptor);
    });
}

#[test]
fn fuzz_caller_limits() {
    #[rustfmt::skip]
    let pieces = [
        "1", "0", "18446744073709551615", "999999999999999999999", "s", "m", "h", "d", "w", "M",
        "y", "ms", "us", "ns", "month", "years", " ", ".", "-", "+", "1s", "١", "\0", "\u{a0}", "e",
        "584554530872y", "5s 5s",
    ];
    let algorithms = [
        Algorithm::TokenBucket,
        Algorithm::SlidingWindow,
        Algorithm::FixedWindow,
    ];
    let mut accepted = 0;
    fuzz(|random| {
        let mut number = || random.number() as u32 >> random.below(32);
        let (rate, burst) = (number(), number());
        let burst = (random.below(2) == 0).then_some(burst);
        let algorithm = algorithms.get(random.below(4)).copied();
        let interval = random.text(&pieces, 5);
        match parse_caller_limit(Some(rate), Some(&interval), burst, algorithm) {
            Ok(limits) => {
                accepted += 1;
                assert!(limits.is_some(), "{rate} {interval}");
            }
            Err(error) => assert!(error.field.is_some(), "{error:?}"),
        }
    });
    assert!(accepted > 0, "every input was refused");
}

#[test]
fn fuzz_subjects() {
    #[rustfmt::skip]
    let pieces = [
        "keys", "tenants", "tiers", "/", "/", "a", "acme", "..", ".", "revision", "writes", "\0",
        " ", "é", "%2F", "\n",
    ];
    let mut accepted = 0;
    fuzz(|random| {
        let text = random.text(&pieces, 7);
        if let Ok(subject) = text.parse::<LimitSubject>() {
            accepted += 1;
            assert_eq!(subject.to_string(), text);
        }
    });
    assert!(accepted > 0, "every input was refused");
}
