//! Limits are changed while three servers run: each sees it within a second, conflicts are noticed,
//! and it survives a restart of all of them and of Redis.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::client::{Answer, check, header, json as body};
use crate::support::{Replica, Server, Wait, call};

const TOKEN: &str = "token-of-the-operator";

async fn admin(
    server: &Replica,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    text: &str,
) -> Answer {
    let token = format!("Bearer {TOKEN}");
    let mut with_token = vec![("authorization", &*token)];
    with_token.extend(headers);
    call(method, server.admin(), path, &with_token, text.to_owned()).await
}

async fn put(server: &Replica, subject: &str, limits: &Value, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/limits/{subject}");
    let text = json!({ "limits": limits }).to_string();
    admin(server, Method::PUT, &path, headers, &text).await
}

async fn get(server: &Replica, subject: &str) -> Answer {
    admin(server, Method::GET, &format!("/limits/{subject}"), &[], "").await
}

/// The limit of a key of the tenant `acme`.
async fn limit(server: &Replica, key: &str) -> Value {
    let ask = json!({ "key": key, "tenant": "acme", "cost": 0 }).to_string();
    body(&check(server.http(), &ask).await)["limit"].clone()
}

async fn until_limit(server: &Replica, key: &str, expected: u32) {
    let wait = Wait::until(format!("the limit of {key} is {expected}"));
    while limit(server, key).await != json!(expected) {
        wait.on().await;
    }
}

fn start(url: &str) -> Replica {
    let mut values = vec![
        ("ADMIN__TOKENS", "[\"token-of-the-operator\"]"),
        ("DEFAULT__LIMIT", "10/1d"),
        ("TIERS__PRO", "20/1d"),
        ("TENANTS__ACME__TIER", "pro"),
        ("TENANTS__ACME__KEYS__VIP", "40/1d"),
    ];
    if !url.is_empty() {
        values.push(("STORE__URL", url));
        values.push(("STORE__DEADLINE", "15s"));
    }
    Replica::start(&values)
}

#[tokio::test]
async fn every_replica_sees_a_change() {
    let redis = Server::start().await;
    let servers = [(); 3].map(|()| start(&redis.url()));
    for server in &servers {
        assert_eq!(limit(server, "a").await, json!(20));
    }
    let put = put(&servers[0], "tiers/pro", &json!("30/1d"), &[]).await;
    assert_eq!(put.status(), StatusCode::OK);
    // Where it was asked it is in force at once.
    assert_eq!(limit(&servers[0], "a").await, json!(30));
    for server in &servers {
        until_limit(server, "a", 30).await;
    }
    // From the least to the most particular.
    self::put(&servers[1], "tenants/acme", &json!({ "day": "31/1d" }), &[]).await;
    self::put(&servers[2], "keys/acme/user:42", &json!("32/1d"), &[]).await;
    for server in &servers {
        until_limit(server, "a", 31).await;
        until_limit(server, "user:42", 32).await;
        assert_eq!(limit(server, "vip").await, json!(40), "the configuration's");
    }
    let deleted = admin(&servers[0], Method::DELETE, "/limits/tenants/acme", &[], "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    for server in &servers {
        until_limit(server, "a", 30).await;
    }
}

/// A change is seen when the book is next read. The others are not told, so this is what a second is
/// made of.
#[tokio::test]
async fn the_book_is_read_again_and_again() {
    let redis = Server::start().await;
    let server = start(&redis.url());
    assert_eq!(limit(&server, "a").await, json!(20));
    let before = redis.calls("hget").await;
    let wait = Wait::until("the book was read four times more");
    while redis.calls("hget").await < before + 4 {
        wait.on().await;
    }
}

#[tokio::test]
async fn it_survives_restarts() {
    let redis = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let servers = [(); 3].map(|()| start(&redis.url()));
    put(&servers[0], "tiers/pro", &json!("30/1d"), &[]).await;
    let tag = header(&get(&servers[0], "tiers/pro").await, "etag")
        .unwrap()
        .to_owned();
    until_limit(&servers[2], "a", 30).await;
    drop(servers);
    redis.restart().await;
    let servers = [(); 3].map(|()| start(&redis.url()));
    for server in &servers {
        until_limit(server, "a", 30).await;
        assert_eq!(header(&get(server, "tiers/pro").await, "etag"), Some(&*tag));
    }
    // While Redis is away what is known goes on, and afterwards changes are seen again.
    redis.kill();
    servers[1]
        .until_it_says("run-time limits cannot be read")
        .await;
    assert_eq!(limit(&servers[1], "a").await, json!(30));
    let away = put(&servers[1], "tiers/pro", &json!("50/1d"), &[]).await;
    assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
    redis.restart().await;
    servers[0]
        .until_it_says("run-time limits can be read again")
        .await;
    let put = put(&servers[0], "tiers/pro", &json!("33/1d"), &[]).await;
    assert_eq!(put.status(), StatusCode::OK);
    for server in &servers {
        until_limit(server, "a", 33).await;
    }
}

async fn conflicts(server: &Replica, other: &Replica) {
    let absent = [("if-none-match", "*")];
    let created = put(server, "keys/acme/a%2Fb", &json!("1/1d"), &absent).await;
    assert_eq!(created.status(), StatusCode::OK);
    let first = header(&created, "etag").unwrap();
    let again = put(other, "keys/acme/a%2Fb", &json!("2/1d"), &absent).await;
    assert_eq!(again.status(), StatusCode::PRECONDITION_FAILED);
    // Two read the same, and one is faster.
    let seen = get(other, "keys/acme/a%2Fb").await;
    assert_eq!(header(&seen, "etag"), Some(first));
    let said = body(&seen);
    assert_eq!(said["subject"], json!("keys/acme/a/b"));
    assert_eq!(
        (&said["limits"], &said["source"]),
        (&json!({"default": "1/1d"}), &json!("runtime"))
    );
    let faster = put(
        server,
        "keys/acme/a%2Fb",
        &json!("3/1d"),
        &[("if-match", first)],
    )
    .await;
    assert_eq!(faster.status(), StatusCode::OK);
    for method in [Method::PUT, Method::DELETE] {
        let path = "/limits/keys/acme/a%2Fb";
        let text = r#"{"limits":"4/1d"}"#;
        let slower = admin(other, method, path, &[("if-match", first)], text).await;
        assert_eq!(slower.status(), StatusCode::PRECONDITION_FAILED);
    }
    let seen = get(other, "keys/acme/a%2Fb").await;
    assert_eq!(body(&seen)["limits"], json!({"default": "3/1d"}));
    let tag = header(&seen, "etag").unwrap();
    let path = "/limits/keys/acme/a%2Fb";
    let deleted = admin(other, Method::DELETE, path, &[("if-match", tag)], "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        get(server, "keys/acme/a%2Fb").await.status(),
        StatusCode::NOT_FOUND
    );
    let absent = put(
        server,
        "keys/acme/a%2Fb",
        &json!("5/1d"),
        &[("if-match", "*")],
    )
    .await;
    assert_eq!(absent.status(), StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn conflicts_are_noticed() {
    let redis = Server::start().await;
    conflicts(&start(&redis.url()), &start(&redis.url())).await;
    let alone = start("");
    conflicts(&alone, &alone).await;
}

#[tokio::test]
async fn what_can_be_asked() {
    let server = start("");
    put(&server, "tenants/globex", &json!("7/1d"), &[]).await;
    let list = admin(&server, Method::GET, "/limits", &[], "").await;
    let list = body(&list);
    let list: Vec<_> = list["limits"].as_array().unwrap().iter().collect();
    let subjects = list.iter().map(|item| item["subject"].as_str().unwrap());
    let expected = ["tiers/pro", "tenants/globex", "keys/acme/vip"];
    assert_eq!(subjects.collect::<Vec<_>>(), expected);
    assert_eq!(list[0]["source"], json!("configuration"));
    assert_eq!(list[1]["source"], json!("runtime"));

    // What is only in the configuration cannot be deleted.
    let deleted = admin(&server, Method::DELETE, "/limits/keys/acme/vip", &[], "").await;
    assert_eq!(deleted.status(), StatusCode::NOT_FOUND);
    let unknown = put(&server, "tiers/gold", &json!("7/1d"), &[]).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);

    let wrong = [
        ("tenants/a b", r#"{"limits":"7/1d"}"#, None),
        ("teams/a", r#"{"limits":"7/1d"}"#, None),
        ("tenants/a", r#"{"limits":"7"}"#, Some("limits")),
        ("tenants/a", r#"{"limits":{"a":"0/1d"}}"#, Some("limits.a")),
        ("tenants/a", r#"{"limit":"7/1d"}"#, Some("limit")),
        ("tenants/a", r#"{}"#, Some("limits")),
    ];
    for (subject, text, field) in wrong {
        let path = format!("/limits/{}", subject.replace(' ', "%20"));
        let answer = admin(&server, Method::PUT, &path, &[], text).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{subject} {text}");
        assert_eq!(body(&answer)["field"].as_str(), field, "{}", answer.body());
    }
    let tag = [("if-match", "bare")];
    let answer = put(&server, "tenants/a", &json!("7/1d"), &tag).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);

    let said = body(&admin(&server, Method::GET, "/configuration", &[], "").await);
    assert_eq!(
        (&said["refused"], &said["outdated"]),
        (&json!(null), &json!(false))
    );

    for token in [
        "",
        "Bearer ",
        "Bearer another",
        "Basic token-of-the-operator",
    ] {
        for path in ["/limits", "/limits/tenants/globex", "/nothing"] {
            let headers = [("authorization", token)];
            let answer = call(Method::GET, server.admin(), path, &headers, "").await;
            assert_eq!(
                answer.status(),
                StatusCode::UNAUTHORIZED,
                "{token:?} {path}"
            );
        }
    }
}

#[tokio::test]
async fn a_key_is_reset() {
    let redis = Server::start().await;
    let servers = [(); 2].map(|()| start(&redis.url()));
    let ask = r#"{"key":"a","tenant":"acme","cost":20}"#;
    let given = r#"{"key":"a","tenant":"acme","rate":20,"interval":"1d","cost":20}"#;
    for (server, allowed) in [
        (&servers[0], true),
        (&servers[0], false),
        (&servers[1], false),
    ] {
        assert_eq!(
            body(&check(server.http(), ask).await)["allowed"],
            json!(allowed)
        );
    }
    // A given limit that is the same as the configured one has the same count.
    assert_eq!(
        body(&check(servers[0].http(), given).await)["allowed"],
        json!(false)
    );
    let reset = r#"{"key":"a","tenant":"acme"}"#;
    let answer = admin(&servers[0], Method::POST, "/reset", &[], reset).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let wait = Wait::until("the other one has forgotten it too");
    while body(&check(servers[1].http(), ask).await)["allowed"] != json!(true) {
        wait.on().await;
    }
    let wrong = admin(
        &servers[0],
        Method::POST,
        "/reset",
        &[],
        r#"{"tenant":"acme"}"#,
    )
    .await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn without_a_token_nobody_is_let_in() {
    let server = Replica::start(&[]);
    assert!(!server.listens_for("admin"));
}
