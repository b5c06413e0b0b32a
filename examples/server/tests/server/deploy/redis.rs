//! The deployed Redis: its configuration is valid, and the server's user has exactly the listed
//! rights, which suffice.

use hyper::Method;
use serde_json::{Value, json};

use super::objects::{chart, kustomization};
use super::tools::read;
use crate::support::admin::{self, TOKEN};
use crate::support::grpc::{self, descriptor, envoy_request};
use crate::support::http::{check, get, json_body};
use crate::support::redis_servers::rights::{assert_none_denied, create_user, rights, user_url};
use crate::support::{Redis, Server};

/// Returns the words of each `--user` option in a command line of Redis.
fn users(command_line: &Value) -> Vec<Vec<&str>> {
    let words = command_line.as_array().unwrap().iter();
    let words: Vec<_> = words.filter_map(Value::as_str).collect();
    let users = words.split(|word| *word == "--user").skip(1);
    users.map(<[_]>::to_vec).collect()
}

#[test]
fn deployed_rights_are_the_listed_rights() {
    let compose = super::compose::read_by_compose();
    let [kustomization, chart] = [kustomization(), chart(&[])];
    let [kustomization, chart] = [&kustomization, &chart].map(|objects| {
        let [_, pod] = objects.pods();
        &pod["containers"][0]["args"]
    });
    for command_line in [
        &compose["services"]["redis"]["command"],
        kustomization,
        chart,
    ] {
        let [default, tollgate] = &users(command_line)[..] else {
            panic!("not two users: {command_line}");
        };
        assert_eq!(default[..], ["default", "reset", "on", "nopass", "+ping"]);
        let [name, reset, on, password, keys, commands @ ..] = &tollgate[..] else {
            panic!("a user without rights: {tollgate:?}");
        };
        let user = [*name, *reset, *on, *keys];
        assert_eq!(user, ["tollgate", "reset", "on", "~tollgate:*"]);
        assert!(password.starts_with('>'), "{password}");
        assert_eq!(*commands, rights(&["counts", "limits"]));
    }
    let readme = include_str!("../../../README.md");
    let limits = format!("`{}`", rights(&["limits"]).join(" "));
    assert!(
        readme.contains(&limits),
        "the README does not list {limits}"
    );
}

/// Makes checks and reads a status by HTTP, and makes requests as Envoy does.
async fn use_every_front_end(server: &Server) {
    for allowed in [true, false] {
        let decision = json_body(&check(server.http(), r#"{"key":"a"}"#).await);
        assert_eq!(decision["allowed"], json!(allowed), "{decision}");
        assert_eq!(decision["degraded"], json!(false), "{decision}");
    }
    let status = json_body(&get(server.http(), "/status/a").await);
    assert_eq!(status["degraded"], json!(false));
    let mut client = grpc::connect_envoy(server.grpc_url()).await;
    for hits in [1, 9, 0] {
        let mut descriptor = descriptor(&[("all", "")]);
        descriptor.hits_addend = Some(hits);
        let request = envoy_request("edge", [descriptor]);
        client.should_rate_limit(request).await.unwrap();
    }
}

#[tokio::test]
async fn listed_rights_suffice_for_the_server() {
    for (database, purposes) in [
        ("", &["counts", "limits"][..]),
        ("/3", &["counts", "limits", "database"]),
    ] {
        let redis = Redis::start().await;
        create_user(&redis, purposes).await;
        let url = format!("{}{database}", user_url(&redis));
        let server = Server::start(&[
            ("STORE__URL", &*url),
            // Long enough that no check is degraded on a busy machine.
            ("STORE__DEADLINE", "15s"),
            (
                "LIMITS__SEVERAL",
                r#"{ burst = "5/1d", daily = "sliding 1/1d" }"#,
            ),
            ("DEFAULT__LIMIT", "several"),
            ("ADMIN__TOKENS__OPERATOR", TOKEN),
            (
                "ENVOY__DOMAINS",
                r#"[{ domain = "edge", descriptors = [{ key = "all", rate_limit = { unit = "year", requests_per_unit = 5 } }] }]"#,
            ),
        ]);
        use_every_front_end(&server).await;
        let limit = "/limits/keys/default/a";
        let calls = [
            (Method::PUT, limit, r#"{"limits":"9/1d"}"#, true),
            (Method::PUT, limit, r#"{"limits":"1/1d"}"#, true),
            (Method::GET, limit, "", true),
            (Method::GET, "/limits", "", true),
            (Method::POST, "/reset", r#"{"key":"a"}"#, true),
            (Method::DELETE, limit, "", true),
            (Method::GET, limit, "", false),
            (Method::DELETE, limit, "", false),
        ];
        for (method, path, body, succeeds) in calls {
            let response = admin::call(&server, method, path, &[], body).await;
            assert_eq!(response.status().is_success(), succeeds, "{response:?}");
        }
        // The server must load its scripts again.
        redis.command(&["SCRIPT", "FLUSH"]).await;
        let reset = r#"{"key":"a"}"#;
        let response = admin::call(&server, Method::POST, "/reset", &[], reset).await;
        assert!(response.status().is_success(), "{response:?}");
        use_every_front_end(&server).await;
        assert_none_denied(&redis).await;
    }
}

#[tokio::test]
async fn redis_configuration_is_valid() {
    let configuration = read("chart/files/redis.conf");
    let lines = configuration.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut options = Vec::new();
    for line in lines.clone() {
        let (name, value) = line.split_once(' ').unwrap();
        // The directory exists only in the container.
        if name != "dir" {
            options.extend([format!("--{name}"), value.to_owned()]);
        }
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let redis = Redis::start_with(&options).await;
    for (name, value) in [("maxmemory-policy", "volatile-ttl"), ("appendonly", "yes")] {
        assert!(lines.clone().any(|line| line == format!("{name} {value}")));
        let set: Vec<String> = redis.query(&["CONFIG", "GET", name]).await;
        assert_eq!(set, [name, value]);
    }
}
