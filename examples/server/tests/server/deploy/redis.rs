//! The deployed Redis: its users have the listed rights, which are enough, and its configuration is valid.

use hyper::Method;
use serde_json::{Value, json};

use super::objects::{chart, kustomization};
use super::tools::read;
use crate::support::client::{check, get, json};
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::support::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use crate::support::protocol::envoy::service::ratelimit::v3::RateLimitRequest;
use crate::support::protocol::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use crate::support::servers::rights::{assert_none_denied, create_user, rights, user_url};
use crate::support::{Replica, Server, call};

/// The users of a Redis's command line, each with the words of its rule.
fn users(command_line: &Value) -> Vec<Vec<&str>> {
    let words = command_line.as_array().unwrap().iter();
    let words: Vec<_> = words.filter_map(Value::as_str).collect();
    let users = words.split(|word| *word == "--user").skip(1);
    users.map(<[_]>::to_vec).collect()
}

#[test]
fn deployed_rights_are_the_listed_ones() {
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
            panic!("two users: {command_line}");
        };
        assert_eq!(default[..], ["default", "reset", "on", "nopass", "+ping"]);
        let [name, reset, on, password, keys, has @ ..] = &tollgate[..] else {
            panic!("a user with rights: {tollgate:?}");
        };
        let user = [*name, *reset, *on, *keys];
        assert_eq!(user, ["tollgate", "reset", "on", "~tollgate:*"]);
        assert!(password.starts_with('>'), "{password}");
        assert_eq!(*has, rights(&["counts", "limits"]));
    }
    let readme = include_str!("../../../README.md");
    let limits = format!("`{}`", rights(&["limits"]).join(" "));
    assert!(readme.contains(&limits), "the README has {limits}");
}

/// Checks and peeks by HTTP, and as Envoy does.
async fn use_limits(server: &Replica) {
    for allowed in [true, false] {
        let answer = json(&check(server.http(), r#"{"key":"somebody"}"#).await);
        assert_eq!(answer["allowed"], json!(allowed), "{answer}");
        assert_eq!(answer["degraded"], json!(false), "{answer}");
    }
    let status = json(&get(server.http(), "/status/somebody").await);
    assert_eq!(status["degraded"], json!(false));
    let mut envoy = RateLimitServiceClient::connect(server.grpc_url())
        .await
        .unwrap();
    for hits in [1, 9, 0] {
        let entry = Entry {
            key: "all".to_owned(),
            value: String::new(),
        };
        let descriptor = RateLimitDescriptor {
            entries: vec![entry],
            hits_addend: Some(hits),
            ..Default::default()
        };
        let request = RateLimitRequest {
            domain: "edge".to_owned(),
            descriptors: vec![descriptor],
            ..Default::default()
        };
        envoy.should_rate_limit(request).await.unwrap();
    }
}

#[tokio::test]
async fn listed_rights_are_enough_for_the_server() {
    for (database, purposes) in [
        ("", &["counts", "limits"][..]),
        ("/3", &["counts", "limits", "database"]),
    ] {
        let redis = Server::start().await;
        create_user(&redis, purposes).await;
        let url = format!("{}{database}", user_url(&redis));
        let server = Replica::start(&[
            ("STORE__URL", &*url),
            // Enough for a busy machine, so that no check is degraded.
            ("STORE__DEADLINE", "15s"),
            (
                "LIMITS__SEVERAL",
                r#"{ burst = "5/1d", daily = "sliding 1/1d" }"#,
            ),
            ("DEFAULT__LIMIT", "several"),
            ("ADMIN__TOKENS__OPERATOR", "token-of-the-operator"),
            (
                "ENVOY__DOMAINS",
                r#"[{ domain = "edge", descriptors = [{ key = "all", rate_limit = { unit = "year", requests_per_unit = 5 } }] }]"#,
            ),
        ]);
        use_limits(&server).await;
        let headers = [
            ("authorization", "Bearer token-of-the-operator"),
            ("content-type", "application/json"),
        ];
        let limit = "/limits/keys/default/somebody";
        let calls = [
            (Method::PUT, limit, r#"{"limits":"9/1d"}"#, true),
            (Method::PUT, limit, r#"{"limits":"1/1d"}"#, true),
            (Method::GET, limit, "", true),
            (Method::GET, "/limits", "", true),
            (Method::POST, "/reset", r#"{"key":"somebody"}"#, true),
            (Method::DELETE, limit, "", true),
            (Method::GET, limit, "", false),
            (Method::DELETE, limit, "", false),
        ];
        for (method, path, body, succeeds) in calls {
            let answer = call(method, server.admin(), path, &headers, body).await;
            assert_eq!(answer.status().is_success(), succeeds, "{answer:?}");
        }
        redis.command(&["SCRIPT", "FLUSH"]).await;
        let reset = call(
            Method::POST,
            server.admin(),
            "/reset",
            &headers,
            r#"{"key":"somebody"}"#,
        );
        assert!(reset.await.status().is_success());
        use_limits(&server).await;
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
        // A directory of the container.
        if name != "dir" {
            options.extend([format!("--{name}"), value.to_owned()]);
        }
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let redis = Server::start_with(&options).await;
    for (name, value) in [("maxmemory-policy", "volatile-ttl"), ("appendonly", "yes")] {
        assert!(lines.clone().any(|line| line == format!("{name} {value}")));
        let set: Vec<String> = redis.query(&["CONFIG", "GET", name]).await;
        assert_eq!(set, [name, value]);
    }
}
