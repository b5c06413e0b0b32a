//! An invalid configuration is refused with an error that names the file, the line and the field.
//! An environment variable can override every value.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::support::http::{check, json_body};
use crate::support::server::program;
use crate::support::{Server, file};

/// A valid configuration with every kind of value.
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
tokens = ["token-of-tenant-acme"]
[tenants.acme.keys]
"a key of any text" = "1/1d"

[authentication]
required = false

[admin.tokens]
alice = "sha256:5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"

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

/// Writes the text to `server.toml` in the directory, and returns the error of `validate` with
/// these variables, or an empty text if the configuration is valid.
fn validate(directory: &Path, text: &str, variables: &[(&str, &str)]) -> String {
    let path = directory.join("server.toml");
    fs::write(&path, text).unwrap();
    let mut program = program();
    program.arg("validate").arg("server.toml");
    program
        .current_dir(directory)
        .envs(variables.iter().copied());
    let output = program.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    // The program does not crash: an error ends it with code 2.
    let code = if error.is_empty() { 0 } else { 2 };
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

/// A configuration whose rules for Envoy are in `rules.yaml`.
const WITH_RULE_FILE: &str = "[envoy]\nfiles = [\"rules.yaml\"]\n";

/// Writes the rules to `rules.yaml` in the directory, and returns the error of `validate` for a
/// configuration with this file.
fn validate_rules(directory: &Path, rules: &str) -> String {
    fs::write(directory.join("rules.yaml"), rules).unwrap();
    validate(directory, WITH_RULE_FILE, &[])
}

/// Asserts that [`GOOD`] is refused after each of these changes: the text to replace, its
/// replacement, and the line and the start of the error.
fn assert_refused(changes: &[(&str, &str, u32, &str)]) {
    let directory = TempDir::new().unwrap();
    for (old, new, line, problem) in changes {
        assert!(GOOD.contains(old), "{old}");
        let text = GOOD.replacen(old, new, 1);
        let error = validate(directory.path(), &text, &[]);
        let expected = format!("tollgate-server: server.toml:{line}: {problem}");
        assert!(error.starts_with(&expected), "{error}expected: {expected}");
        assert!(!error.contains("token-of"), "{error}");
    }
}

#[test]
fn good_configuration_is_accepted() {
    let directory = TempDir::new().unwrap();
    assert_eq!(validate(directory.path(), GOOD, &[]), "");
    assert_eq!(validate(directory.path(), "", &[]), "");
}

#[test]
fn readme_examples_are_accepted() {
    let directory = TempDir::new().unwrap();
    let rules = "domain: edge\n";
    fs::write(directory.path().join("edge.yaml"), rules).unwrap();
    let blocks = include_str!("../../README.md").split("```toml\n").skip(1);
    let blocks: Vec<_> = blocks
        .filter_map(|block| block.split("```").next())
        .collect();
    assert_eq!(
        blocks.len(),
        2,
        "Envoy's rules, and the whole configuration"
    );
    for block in blocks {
        assert_eq!(validate(directory.path(), block, &[]), "", "{block}");
    }
}

#[test]
fn mistakes_are_refused_with_line_and_field() {
    assert_refused(&[
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
            "store.capacity: must be an integer from 1 to 4294967295, not 0",
        ),
        (
            "capacity = 1000",
            "capacity = \"x\"",
            7,
            "store.capacity: must be an integer from 1 to 4294967295, not \"x\"",
        ),
        (
            "capacity = 1000",
            "prefix = \"x\"",
            7,
            "store.prefix: the store is local, and only redis has this field: remove",
        ),
        (
            "kind = \"local\"",
            "kind = \"redis\"",
            7,
            "store.capacity: the store is redis, and only local has this field: use `fallback_",
        ),
        (
            "\"20ms\"",
            "\"20\"",
            8,
            "store.deadline: \"20\" is not a duration",
        ),
        (
            "\"20ms\"",
            "\"0s\"",
            8,
            "store.deadline: must be longer than 0s, not \"0s\"",
        ),
        (
            "\"20ms\"",
            "20",
            8,
            "store.deadline: must be a string with a unit, not 20: write \"20ms\" or \"20s\"",
        ),
        (
            "[store]",
            "[stores]",
            5,
            "stores: there is no such table; there are: listen,",
        ),
        (
            "[listen]",
            "[listen]\ntls = true",
            3,
            "listen.tls: there is no such field; there are: http, grpc, admin, max_connections, \
             max_connections_per_address, request_deadline, max_connection_age; the server does not \
             support TLS",
        ),
        (
            "http = ",
            "request_deadline = \"25h\"\nhttp = ",
            3,
            "listen.request_deadline: must be at most 1day, not \"25h\"",
        ),
        (
            "free = \"60/1m burst 5\"",
            "free = \"60/1m burst 0\"",
            20,
            "limits.free: `60/1m burst 0`: a quota's burst must be at least 1",
        ),
        (
            "burst = \"50/1s\"",
            "a = \"1/1s\", b = \"1/1s\", c = \"1/1s\", d = \"1/1s\", e = \"1/1s\", f = \"1/1s\", \
             g = \"1/1s\", h = \"1/1s\"",
            21,
            "limits.paid: holds 9 quotas: write 1 to 8",
        ),
        (
            "paid = {",
            "free = \"1/1s\"\npaid = {",
            21,
            "invalid TOML: `free` is in this table twice, first at server.toml:20: remove one",
        ),
        (
            "[tiers]",
            "[log]",
            27,
            "invalid TOML: `log` is in this table twice, first at server.toml:11: remove one",
        ),
        (
            "[tenants.acme]",
            "[tenants.\"a b\"]",
            31,
            "tenants.\"a b\": \"a b\" cannot be the name of a tenant: use",
        ),
        (
            "[admin.tokens]\nalice =",
            "[admin]\n#",
            40,
            "admin: `tokens` is missing: give it a value such as `{ alice =",
        ),
        (
            "\"closed\"",
            "\"shut\"",
            9,
            "store.failure: \"shut\" is unknown: write open or ",
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
            "limits.paid.burst: `50/1x` is not a quota",
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
            "default.tenant: \"the public\" cannot be the name of a tenant",
        ),
        (
            "tier = \"pro\"",
            "tier = \"por\"",
            32,
            "tenants.acme.tier: there is no tier \"por\"",
        ),
        (
            "[\"token-of-tenant-acme\"]",
            "[\"\"]",
            33,
            "tenants.acme.tokens[0]: must not be empty",
        ),
        (
            "= \"1/1d\"",
            "= \"0/1d\"",
            35,
            "tenants.acme.keys.\"a key of any text\": `0/1d`: a quota's",
        ),
        (
            "required = false",
            "required = 1",
            38,
            "authentication.required: must be true or false, not 1",
        ),
        (
            "sha256:5f",
            "sha256:",
            41,
            "admin.tokens.alice: after `sha256:` must come 64",
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
        ("[admin.tokens]", "[admin", 40, "invalid TOML"),
        (
            "required = false",
            "",
            43,
            "envoy: callers must authenticate, and Envoy could not",
        ),
        (
            "\"a key of any text\" =",
            "\"user:\" =",
            35,
            "tenants.acme.keys.\"user:\": no request has this key",
        ),
    ]);
}

#[test]
fn unusable_jwt_settings_are_refused() {
    let directory = TempDir::new().unwrap();
    let settings = |changed: &str| {
        let jwt = "[authentication.jwt]\naudience = \"a\"\n";
        let key = "[[authentication.jwt.keys]]\nalgorithm = \"HS256\"\n\
                   secret = \"a secret that is long enough for HS256\"\n";
        let (name, _) = changed.split_once(' ').unwrap();
        let jwt = match name {
            "audience" => jwt.replace("audience = \"a\"", changed),
            _ => format!("{jwt}{changed}\n"),
        };
        validate(directory.path(), &format!("{jwt}{key}"), &[])
    };
    assert_eq!(settings("leeway = \"1h\""), "");
    let unusable = [
        (
            "leeway = \"61m\"",
            "3: authentication.jwt.leeway: must be at most 1h, not \"61m\"",
        ),
        (
            "audience = \"\"",
            "2: authentication.jwt.audience: must not be empty",
        ),
        (
            "issuer = \"\"",
            "3: authentication.jwt.issuer: must not be empty",
        ),
        (
            "tenant_claim = \"\"",
            "3: authentication.jwt.tenant_claim: must not",
        ),
    ];
    for (changed, problem) in unusable {
        let error = settings(changed);
        let expected = format!("tollgate-server: server.toml:{problem}");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn invalid_store_url_is_not_printed() {
    let directory = TempDir::new().unwrap();
    let password = [("TOLLGATE__STORE__URL", "a-password-in-the-wrong-place")];
    let error = validate(directory.path(), "", &password);
    let expected = "tollgate-server: TOLLGATE__STORE__URL: store.url: is not a URL: write redis://";
    assert!(error.starts_with(expected), "{error}");
    assert!(!error.contains("a-password"), "{error}");
    let text = "[store]\nurl = \"redis://127.0.0.1\"\nprefix = \"a b\"\n";
    let error = validate(directory.path(), text, &[]);
    let expected = "tollgate-server: server.toml:3: store.prefix: \"a b\" cannot be a prefix: use";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn log_filter_that_silences_the_server_is_refused() {
    let directory = TempDir::new().unwrap();
    let filter = |filter: &str| {
        let text = format!("[log]\nfilter = \"{filter}\"\n");
        validate(directory.path(), &text, &[])
    };
    let good = [
        "off",
        "WARN",
        "warn, tollgate=debug",
        "tollgate=trace",
        "hyper=off,tollgate_server::service=info",
    ];
    for text in good {
        assert_eq!(filter(text), "", "{text}");
    }
    let unknown = [
        "debgu",
        "tollgate",
        "",
        "info,",
        "tollgate=debgu",
        "tollgate=",
        "info,tollgate[span]=debug",
    ];
    for text in unknown {
        let error = filter(text);
        let expected = "tollgate-server: server.toml:2: log.filter: \"";
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains("is neither a level (off, "), "{error}");
    }
    let error = filter("hyper=debug");
    let fix = "has no level for the server itself: write info,hyper=debug";
    assert!(error.contains(fix), "{error}");
}

#[test]
fn unusable_tokens_are_refused() {
    const TENANT: &str = "[\"token-of-tenant-acme\"]";
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let admin = GOOD.lines().find(|line| line.starts_with("alice")).unwrap();
    let empty = format!("[\"{EMPTY}\"]");
    assert_refused(&[
        (TENANT, "[]", 33, "tenants.acme.tokens: the list is empty"),
        (
            "response_headers = true",
            "tokens = []",
            44,
            "envoy.tokens: the list is empty",
        ),
        (admin, "", 40, "admin.tokens: the table is empty"),
        (
            TENANT,
            "[\"123456789012345\"]",
            33,
            "tenants.acme.tokens[0]: must have 16 characters or more",
        ),
        (
            TENANT,
            "[\"a token with spaces\"]",
            33,
            "tenants.acme.tokens[0]: must be visible ASCII",
        ),
        (
            TENANT,
            &empty,
            33,
            "tenants.acme.tokens[0]: is the digest of an empty token",
        ),
        (
            "[admin.tokens]\nalice = ",
            "[admin]\ntokens = [\"token-of-administrator\"]\n#",
            41,
            "admin.tokens: must be a table of names and tokens, not a list: write `[admin.tokens]`",
        ),
        (
            "alice = ",
            "\"Alice A.\" = ",
            41,
            "admin.tokens.\"Alice A.\": must be named with 1 to 64 of",
        ),
    ]);
}

#[test]
fn token_of_two_callers_is_refused() {
    // The digest of `token-of-tenant-acme`.
    const DIGEST: &str = "sha256:8775334329bfa1e0dbdb4ba844f37f3ff8bbdeff2dc55f61d69b8423b5eff21b";
    const TOKENS: &str = "[\"token-of-tenant-acme\"]";
    let in_one_list = format!("[\"token-of-tenant-acme\", \"{DIGEST}\"]");
    let of_two_tenants = format!("{TOKENS}\n[tenants.globex]\ntokens = [\"{DIGEST}\"]");
    let of_envoy = format!("tokens = {TOKENS}");
    let of_admin = "alice = \"token-of-tenant-acme\"\nbob = ";
    let first = "is the same token as tenants.acme.tokens[0] (server.toml:33): give each";
    assert_refused(&[
        (
            TOKENS,
            &in_one_list,
            33,
            &format!("tenants.acme.tokens[1]: {first}"),
        ),
        (
            TOKENS,
            &of_two_tenants,
            35,
            &format!("tenants.globex.tokens[0]: {first}"),
        ),
        (
            "response_headers = true",
            &of_envoy,
            44,
            &format!("envoy.tokens[0]: {first}"),
        ),
        (
            "alice = ",
            of_admin,
            41,
            &format!("admin.tokens.alice: {first}"),
        ),
    ]);
}

#[test]
fn overlapping_listeners_are_refused() {
    let directory = TempDir::new().unwrap();
    let listen = |http: &str, grpc: &str, admin: &str| {
        let text = format!(
            "[admin.tokens]\nalice = \"token-of-alice-1234\"\n\
             [listen]\nhttp = \"{http}\"\ngrpc = \"{grpc}\"\nadmin = \"{admin}\"\n"
        );
        validate(directory.path(), &text, &[])
    };
    let good = [
        ("127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0"),
        ("127.0.0.1:80", "127.0.0.2:80", "[::1]:80"),
        ("0.0.0.0:80", "0.0.0.0:81", "[::1]:80"),
    ];
    for (http, grpc, admin) in good {
        assert_eq!(listen(http, grpc, admin), "", "{http} {grpc} {admin}");
    }
    let bad = [
        ("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1:81", 5),
        ("127.0.0.1:80", "127.0.0.1:81", "0.0.0.0:80", 6),
        ("0.0.0.0:80", "127.0.0.1:80", "127.0.0.1:81", 5),
        ("127.0.0.1:80", "127.0.0.1:81", "[::]:81", 6),
        ("[::1]:80", "[::]:80", "127.0.0.1:81", 5),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", "127.0.0.1:81", 5),
    ];
    for (http, grpc, admin, line) in bad {
        let error = listen(http, grpc, admin);
        let field = if line == 5 { "grpc" } else { "admin" };
        let expected = format!("tollgate-server: server.toml:{line}: listen.{field}: ");
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains(": change one of the ports"), "{error}");
    }
    // The HTTP listener is configured with the default port of the gRPC listener.
    let error = validate(directory.path(), "[listen]\nhttp = \"0.0.0.0:8081\"\n", &[]);
    let expected = "tollgate-server: server.toml:2: listen.http: 127.0.0.1:8081 overlaps http";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn deep_nesting_is_refused() {
    let directory = TempDir::new().unwrap();
    let key = |parts: usize| vec!["a"; parts].join(".");
    let inline = format!("{} = {{ ", key(40));
    let tables = [
        format!("a = {}", "[".repeat(200_000)),
        format!("a = {}1{}", "[".repeat(65), "]".repeat(65)),
        format!("{} = 1", key(50_000)),
        format!("[{}]", key(50_000)),
        format!("[[{}]]\na = 1", key(33)),
        format!("{}b = 1{}", inline.repeat(70), " }".repeat(70)),
    ];
    for text in tables {
        let error = validate(directory.path(), &format!("\n{text}\n"), &[]);
        let expected = "tollgate-server: server.toml:2: lists and tables are nested more than 64";
        assert!(error.starts_with(expected), "{error}");
    }
    let rules = [
        "- ".repeat(100_000),
        "? ".repeat(100_000),
        "[".repeat(200_000),
        "{a: ".repeat(100_000),
        "{? ".repeat(100_000),
        "a: &a [\n- &b ".repeat(50_000),
    ];
    for text in rules {
        let text = format!("domain: edge\ndescriptors:\n  {text}\n");
        let error = validate_rules(directory.path(), &text);
        assert!(error.starts_with("tollgate-server: rules.yaml:"), "{error}");
    }
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let names = format!("TOLLGATE__{}", vec!["A"; 40_000].join("__"));
    for (name, text) in [("TOLLGATE__LIMITS", &*deep), (&*names, "1")] {
        let error = validate(directory.path(), "", &[(name, text)]);
        let expected = format!("tollgate-server: {name}: lists and tables are nested");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn descriptors_nest_up_to_31_deep() {
    let directory = TempDir::new().unwrap();
    let rules = |levels: usize| {
        let mut text = "domain: edge\n".to_owned();
        for level in 0..levels {
            let indent = "  ".repeat(level);
            text.push_str(&format!("{indent}descriptors:\n{indent}- key: a\n"));
        }
        validate_rules(directory.path(), &text)
    };
    assert_eq!(rules(31), "");
    let error = rules(32);
    assert!(error.contains("nested more than 64 deep"), "{error}");
}

#[test]
fn yaml_aliases_that_multiply_are_refused() {
    let directory = TempDir::new().unwrap();
    let mut values = "domain: edge\nx0: &x0 [a]\n".to_owned();
    let mut depth = "domain: edge\nx0: &x0 [a]\n".to_owned();
    for level in 1..70 {
        let before = format!("*x{}", level - 1);
        let list = [&*before; 9].join(",");
        values.push_str(&format!("x{level}: &x{level} [{list}]\n"));
        depth.push_str(&format!("x{level}: &x{level} [{before}]\n"));
    }
    let long = format!(
        "x: &x \"{}\"\ny: [{}]\n",
        "a".repeat(10_000),
        "*x,".repeat(200)
    );
    let bombs = [
        (&*values, "copy more than 1000000 values and bytes of text"),
        (&*depth, "nested more than 64 deep"),
        (&*long, "copy more than 1000000 values and bytes of text"),
        (
            "x: &x [*x]\n",
            "an alias cannot be inside the value of its own",
        ),
    ];
    for (text, problem) in bombs {
        let error = validate_rules(directory.path(), text);
        assert!(error.starts_with("tollgate-server: rules.yaml:"), "{error}");
        assert!(error.contains(problem), "{error}");
    }
    let good = "domain: edge\ndescriptors:\n\
                - {key: &key a, rate_limit: &limit {unit: day, requests_per_unit: 5}}\n\
                - key: b\n  rate_limit: *limit\n- key: c\n  value: *key\n";
    assert_eq!(validate_rules(directory.path(), good), "");
}

#[test]
fn unreadable_files_are_refused() {
    let directory = TempDir::new().unwrap();
    let files = [
        ("/dev/zero", "it is not a regular file"),
        ("large", "it is larger than 1 MiB"),
        ("binary", "line 2 is not UTF-8"),
        ("missing", "No such file"),
    ];
    fs::write(directory.path().join("binary"), b"a = 1\n\xff\xfe").unwrap();
    fs::write(directory.path().join("large"), " ".repeat(1024 * 1024 + 1)).unwrap();
    for (file, problem) in files {
        let settings = format!("[envoy]\nfiles = [\"{file}\"]\n");
        let error = validate(directory.path(), &settings, &[]);
        let expected = "tollgate-server: server.toml:2: envoy.files[0]: ";
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains(problem), "{error}");
        let mut program = program();
        let program = program
            .args(["validate", file])
            .current_dir(directory.path());
        let error = String::from_utf8(program.output().unwrap().stderr).unwrap();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn rule_file_mistakes_are_refused_with_line_and_field() {
    let directory = TempDir::new().unwrap();
    let error = validate(directory.path(), WITH_RULE_FILE, &[]);
    let expected = "tollgate-server: server.toml:2: envoy.files[0]: rules.yaml cannot be read";
    assert!(error.starts_with(expected), "{error}");
    let mistakes = [
        ("domain: [", "2: invalid YAML"),
        (
            "descriptors: []\n",
            "1: `domain` is missing: give it a value such as `edge`",
        ),
        (
            "domain: a\n---\ndomain: b\n",
            "2: the file has a second document",
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
        ("# nothing\n", "1: the file is empty: write `domain:"),
        (
            "domain: a\n'domain': b\n",
            "2: \"domain\" is in this table twice, first at rules.yaml:1: remove one",
        ),
        ("domain: a\n? [b]\n: c\n", "2: a name must be a string"),
    ];
    for (text, problem) in mistakes {
        let error = validate_rules(directory.path(), text);
        let expected = format!("tollgate-server: rules.yaml:{problem}");
        assert!(error.starts_with(&expected), "{error}expected: {expected}");
    }
}

#[test]
fn variables_set_values_of_every_type() {
    let directory = TempDir::new().unwrap();
    let good = [
        ("TOLLGATE__STORE__URL", "redis://127.0.0.1:6379"),
        ("TOLLGATE__TENANTS__ACME__KEYS__USER", "5/1s"),
        ("TOLLGATE__LIMITS__PAID", "{ burst = \"5/1s\" }"),
        ("TOLLGATE__ADMIN__TOKENS__ALICE", "1234567890123456"),
        (
            "TOLLGATE__TENANTS__ACME__TOKENS",
            "[\"first-of-tenant-acme\", \"second-of-tenant-acme\"]",
        ),
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
            "store.deadline: \"soon\" is not a duration",
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
            "`7` is not an index of a list of 1",
        ),
        (
            ("TOLLGATE__STORE__KIND__X", "x"),
            "there is no `X` in a string: remove `__X` from the variable's name",
        ),
        (
            ("TOLLGATE__LIMITS__FREE", "{ burst = \"5/1s\""),
            "limits.free: the text begins like a TOML table and cannot be parsed: ",
        ),
        (
            ("TOLLGATE__ENVOY__TOKENS", "[\"token-of-envoy-1234\""),
            "envoy.tokens: must be a list; the text begins like a TOML list and cannot be parsed: ",
        ),
        (
            ("TOLLGATE__ENVOY__TOKENS__0", "token-of-envoy-1234"),
            "envoy.tokens: must be a list, not a table: a variable with an index changes an item of \
             a list that exists; write the whole list, as TOLLGATE__ENVOY__TOKENS='[",
        ),
        (
            ("TOLLGATE__STORE__CAPACITY", "many"),
            "store.capacity: must be an integer from 1 to 4294967295, not \"many\"",
        ),
        (
            ("TOLLGATE__AUTHENTICATION__REQUIRED", "yes"),
            "authentication.required: must be true or false, not \"yes\"",
        ),
        (("TOLLGATE__", "x"), "names no field"),
    ];
    for (variable, problem) in bad {
        let error = validate(directory.path(), GOOD, &[variable]);
        let expected = format!("tollgate-server: {}: {problem}", variable.0);
        assert!(error.starts_with(&expected), "{error}expected: {expected}");
    }
    let yaml = validate(directory.path(), "store:\n  kind: redis\n", &[]);
    assert!(yaml.contains("the configuration is TOML"), "{yaml}");
    let same = [
        ("TOLLGATE__STORE__DEADLINE", "1s"),
        ("TOLLGATE__store__DEADLINE", "2s"),
    ];
    let error = validate(directory.path(), GOOD, &same);
    let problem = "another variable has the same name in other capitals: remove one";
    assert!(error.contains(problem), "{error}");
}

#[test]
fn misspelt_variable_is_refused_with_its_correct_name() {
    let directory = TempDir::new().unwrap();
    let misspelt = [
        ("TOLLGATE_STORE_URL", "TOLLGATE__STORE__URL"),
        ("TOLLGATE_STORE__URL", "TOLLGATE__STORE__URL"),
        (
            "TOLLGATE_STORE_FALLBACK_CAPACITY",
            "TOLLGATE__STORE__FALLBACK_CAPACITY",
        ),
        ("TOLLGATE_ADMIN_TOKENS", "TOLLGATE__ADMIN__TOKENS"),
        ("TOLLGATE_LISTEN", "TOLLGATE__LISTEN"),
        ("tollgate__log__filter", "TOLLGATE__log__filter"),
    ];
    for (name, correct) in misspelt {
        let error = validate(directory.path(), "", &[(name, "x")]);
        let expected = format!("tollgate-server: {name}: is not read: write {correct}\n");
        assert_eq!(error, expected);
    }
    // Variables of the command line, and variables that Kubernetes sets for Services.
    let others = [
        "TOLLGATE_CONFIG",
        "TOLLGATE_SERVER",
        "TOLLGATE_TOKEN",
        "TOLLGATE_ADMIN",
        "TOLLGATE_ADMIN_TOKEN",
        "TOLLGATE_PORT",
        "TOLLGATE_PORT_8080_TCP_ADDR",
        "TOLLGATE_SERVICE_HOST",
        "TOLLGATE_SERVICE_PORT_ADMIN",
        "TOLLGATE_ADMIN_PORT",
        "TOLLGATE_ADMIN_PORT_8082_TCP",
        "TOLLGATE_ADMIN_SERVICE_HOST",
        "TOLLGATE_STORE_REDIS_PORT_6379_TCP_PROTO",
    ];
    let others: Vec<_> = others.into_iter().map(|name| (name, "x")).collect();
    assert_eq!(validate(directory.path(), "", &others), "");
}

#[test]
fn variable_that_is_not_utf8_is_refused() {
    let file = file("");
    let validate = |name: &str| {
        let mut program = program();
        program.arg("validate").arg(file.path());
        program.env(name, OsStr::from_bytes(b"\xff"));
        String::from_utf8(program.output().unwrap().stderr).unwrap()
    };
    let error = validate("TOLLGATE__STORE__URL");
    let expected = "tollgate-server: TOLLGATE__STORE__URL: must be in UTF-8\n";
    assert_eq!(error, expected);
    assert_eq!(validate("ANOTHER"), "");
}

#[tokio::test]
async fn variable_overrides_the_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("server.toml");
    fs::write(&path, "[default]\nlimit = \"10/1d\"\n").unwrap();
    let server = Server::with_config(&path, &[("DEFAULT__LIMIT", "20/1d")]);
    let body = json_body(&check(server.http(), r#"{"key":"a"}"#).await);
    assert_eq!(body["limit"], json!(20));
}
