//! Redis, as it is deployed: a real one takes its configuration, and its user's rights are enough.

use hyper::Method;
use serde_json::{Value, json};

use super::objects::kustomization;
use super::tools::read;
use crate::support::client::{check, json};
use crate::support::{Replica, Server, call};

/// The users that a command line makes, each with the words of its rule.
fn users(words: &Value) -> Vec<Vec<String>> {
    let mut words = words.as_array().unwrap().iter().filter_map(Value::as_str);
    words.find(|word| *word == "--user").unwrap();
    let mut users = vec![Vec::new()];
    for word in words {
        match word {
            "--user" => users.push(Vec::new()),
            _ => users.last_mut().unwrap().push(word.to_owned()),
        }
    }
    users
}

/// The same users, with another password.
fn with_password(users: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let word = |word: String| {
        if word.starts_with('>') {
            ">secret".to_owned()
        } else {
            word
        }
    };
    let users = users.into_iter();
    users
        .map(|words| words.into_iter().map(word).collect())
        .collect()
}

#[tokio::test]
async fn its_users_rights_are_enough() {
    let objects = kustomization();
    let [_, pod] = objects.pods();
    let container = &pod["containers"][0];
    let users_there = with_password(users(&container["args"]));
    let compose = super::compose::read_by_compose();
    let users_here = with_password(users(&compose["services"]["redis"]["command"]));
    assert_eq!(users_here, users_there);

    let redis = Server::start().await;
    let mut names = Vec::new();
    for words in users_there {
        names.push(words[0].clone());
        // The test itself is the one that has all rights.
        let name = words[0].replace("default", "anybody");
        let rule = ["ACL".to_owned(), "SETUSER".to_owned(), name];
        redis.command(&[&rule[..], &words[1..]].concat()).await;
    }
    assert_eq!(names, ["default", "tollgate"]);

    let url = redis.url().replace("redis://", "redis://tollgate:secret@");
    let server = Replica::start(&[
        ("STORE__URL", &*url),
        // What is late is decided without Redis, and this is not about that.
        ("STORE__DEADLINE", "15s"),
        (
            "LIMITS__SEVERAL",
            r#"{ burst = "5/1d", daily = "sliding 1/1d" }"#,
        ),
        ("DEFAULT__LIMIT", "several"),
        ("ADMIN__TOKENS", r#"["token"]"#),
    ]);
    for allowed in [true, false] {
        let said = json(&check(server.http(), r#"{"key":"somebody"}"#).await);
        assert_eq!(
            (&said["allowed"], &said["degraded"]),
            (&json!(allowed), &json!(false))
        );
    }
    let headers = [
        ("authorization", "Bearer token"),
        ("content-type", "application/json"),
    ];
    let limit = "/limits/keys/default/somebody";
    let calls = [
        (Method::PUT, limit, r#"{"limits":"9/1d"}"#, true),
        (Method::GET, limit, "", true),
        (Method::POST, "/reset", r#"{"key":"somebody"}"#, true),
        (Method::DELETE, limit, "", true),
        (Method::GET, limit, "", false),
    ];
    for (method, path, body, succeeds) in calls {
        let answer = call(method, server.admin(), path, &headers, body).await;
        assert_eq!(answer.status().is_success(), succeeds, "{answer:?}");
    }
}

#[tokio::test]
async fn it_takes_its_configuration() {
    let configuration = read("chart/files/redis.conf");
    let lines = configuration.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut options = Vec::new();
    for line in lines.clone() {
        let (name, value) = line.split_once(' ').unwrap();
        // The container's.
        if name != "dir" {
            options.extend([format!("--{name}"), value.to_owned()]);
        }
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let redis = Server::start_with(&options).await;
    for (name, value) in [("maxmemory-policy", "volatile-ttl"), ("appendonly", "yes")] {
        assert!(lines.clone().any(|line| line == format!("{name} {value}")));
        let set: Vec<String> = redis.ask(&["CONFIG", "GET", name]).await;
        assert_eq!(set, [name, value]);
    }
}
