//! The admin API: limits that are set at run time reach every replica, conflicting writes are refused,
//! and limits survive restarts of the servers and of Redis.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::client::{Answer, check, header, json as body};
use crate::support::servers::Proxy;
use crate::support::{Replica, Server, Wait, call};

const TOKEN: &str = "token-of-the-operator";

pub(crate) async fn admin(
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

pub(crate) async fn put(
    server: &Replica,
    subject: &str,
    limits: &Value,
    headers: &[(&str, &str)],
) -> Answer {
    let path = format!("/limits/{subject}");
    let text = json!({ "limits": limits }).to_string();
    admin(server, Method::PUT, &path, headers, &text).await
}

pub(crate) async fn get(server: &Replica, subject: &str) -> Answer {
    admin(server, Method::GET, &format!("/limits/{subject}"), &[], "").await
}

/// The limit of a key of the tenant `acme`.
pub(crate) async fn limit(server: &Replica, key: &str) -> Value {
    let ask = json!({ "key": key, "tenant": "acme", "cost": 0 }).to_string();
    body(&check(server.http(), &ask).await)["limit"].clone()
}

pub(crate) async fn until_limit(server: &Replica, key: &str, expected: u32) {
    let wait = Wait::until(format!("the limit of {key} is {expected}"));
    while limit(server, key).await != json!(expected) {
        wait.sleep().await;
    }
}

pub(crate) fn start(url: &str) -> Replica {
    let mut values = vec![
        ("ADMIN__TOKENS__OPERATOR", TOKEN),
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
async fn change_reaches_every_replica() {
    let redis = Server::start().await;
    let servers = [(); 3].map(|()| start(&redis.url()));
    for server in &servers {
        assert_eq!(limit(server, "a").await, json!(20));
    }
    let put = put(&servers[0], "tiers/pro", &json!("30/1d"), &[]).await;
    assert_eq!(put.status(), StatusCode::OK);
    // On the replica that took the change, it is in force at once.
    assert_eq!(limit(&servers[0], "a").await, json!(30));
    for server in &servers {
        until_limit(server, "a", 30).await;
    }
    // From the least particular limit to the most particular.
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

/// Replicas poll: a change is seen at the next interval at the latest.
#[tokio::test]
async fn changes_are_polled() {
    let redis = Server::start().await;
    let server = start(&redis.url());
    assert_eq!(limit(&server, "a").await, json!(20));
    let before = redis.calls("hget").await;
    let wait = Wait::until("the revision was read four times more");
    while redis.calls("hget").await < before + 4 {
        wait.sleep().await;
    }
    assert_eq!(redis.calls("zrange").await, 0, "there is nothing to read");
}

#[tokio::test]
async fn limits_survive_restarts() {
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
    // During an outage of Redis the known limits stay in force. Afterwards changes are seen again.
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

async fn check_conflicts(server: &Replica, other: &Replica) {
    let absent = [("if-none-match", "*")];
    let created = put(server, "keys/acme/a%2Fb", &json!("1/1d"), &absent).await;
    assert_eq!(created.status(), StatusCode::OK);
    let first = header(&created, "etag").unwrap();
    let again = put(other, "keys/acme/a%2Fb", &json!("2/1d"), &absent).await;
    assert_eq!(again.status(), StatusCode::PRECONDITION_FAILED);
    // Two operators read the same version, and one writes first.
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
async fn outdated_version_is_refused() {
    let redis = Server::start().await;
    check_conflicts(&start(&redis.url()), &start(&redis.url())).await;
    let alone = start("");
    check_conflicts(&alone, &alone).await;
}

/// `GET /limits` with this query.
pub(crate) async fn list(server: &Replica, query: &str) -> Value {
    let path = format!("/limits?{query}");
    body(&admin(server, Method::GET, &path, &[], "").await)
}

pub(crate) fn subjects(page: &Value) -> Vec<&str> {
    let limits = page["limits"].as_array().unwrap().iter();
    limits
        .map(|item| item["subject"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn list_merges_configured_and_set_limits() {
    let server = start("");
    put(&server, "tenants/globex", &json!("7/1d"), &[]).await;
    put(&server, "keys/acme/vip", &json!("8/1d"), &[]).await;
    let page = list(&server, "").await;
    assert_eq!(
        subjects(&page),
        ["keys/acme/vip", "tenants/globex", "tiers/pro"]
    );
    let source = |index: usize| page["limits"][index]["source"].as_str().unwrap();
    assert_eq!(
        [0, 1, 2].map(source),
        ["runtime", "runtime", "configuration"]
    );
    assert_eq!(page["limits"][0]["limits"], json!({"default": "8/1d"}));
    assert_eq!(page.get("next"), None);
}

#[tokio::test]
async fn list_pages_in_order_of_subjects() {
    let server = start("");
    // The text's order: `-` sorts before `/`.
    let all = [
        "keys/acme-eu/a",
        "keys/acme/a",
        "keys/acme/b/c",
        "keys/acme/d",
        "keys/acme/vip",
        "tiers/pro",
    ];
    for subject in [all[3], all[0], all[1]] {
        put(&server, subject, &json!("7/1d"), &[]).await;
    }
    put(&server, "keys/acme/b%2Fc", &json!("7/1d"), &[]).await;
    for size in 1..=all.len() + 1 {
        let mut seen = Vec::new();
        let mut query = format!("limit={size}");
        loop {
            let page = list(&server, &query).await;
            let some = subjects(&page);
            assert!(some.len() <= size);
            seen.extend(some.iter().map(|&subject| subject.to_owned()));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            assert_eq!(some.len(), size, "only the last page is shorter");
            assert_eq!(some.last(), Some(&next));
            query = format!("limit={size}&after={}", next.replace('/', "%2F"));
        }
        assert_eq!(seen, all, "pages of {size}");
    }
    let page = list(&server, "prefix=keys/acme/&limit=2&after=keys/acme/a").await;
    assert_eq!(subjects(&page), all[2..4]);
    assert_eq!(page["next"], json!(all[3]));
    let page = list(&server, "prefix=keys/acme/&after=keys/acme/d").await;
    assert_eq!((subjects(&page), page.get("next")), (vec![all[4]], None));
    assert_eq!(subjects(&list(&server, "prefix=t").await), [all[5]]);
    assert_eq!(
        subjects(&list(&server, "prefix=keys/acme/nobody").await),
        [""; 0]
    );
    // A page continues after a subject that was deleted meanwhile.
    let page = list(&server, "after=keys/acme/c").await;
    assert_eq!(subjects(&page), all[3..]);
}

#[tokio::test]
async fn wrong_parameter_is_named() {
    let server = start("");
    let wrong = [
        (Method::GET, "/limits?limit=0", "limit"),
        (Method::GET, "/limits?limit=1001", "limit"),
        (Method::GET, "/limits?limit=many", "limit"),
        (Method::GET, "/limits?limit=", "limit"),
        (Method::GET, "/limits?limit=1&limit=1", "limit"),
        (Method::GET, "/limits?after=acme", "after"),
        (Method::GET, "/limits?prefix=acme", "prefix"),
        (Method::GET, "/limits?prefixes=keys", "prefixes"),
        (Method::PUT, "/limits/tenants/acme?strict=maybe", "strict"),
        (Method::PUT, "/limits/tenants/acme?strikt", "strikt"),
    ];
    for (method, path, field) in wrong {
        let answer = admin(&server, method, path, &[], r#"{"limits":"7/1d"}"#).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(body(&answer)["field"], json!(field), "{path}");
    }
    assert_eq!(
        get(&server, "tenants/acme").await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn unknown_subject_gets_a_warning() {
    let server = start("");
    let unknown = [
        ("tiers/gold", "no tier \"gold\"", "add it to [tiers]"),
        ("tenants/acne", "no tenant \"acne\"", "[tenants.\"acne\"]"),
        ("keys/acne/vip", "no tenant \"acne\"", "[tenants.\"acne\"]"),
        (
            "keys/acme/vib",
            "no key \"vib\" in tenant \"acme\"",
            "[tenants.\"acme\".keys]",
        ),
        (
            "keys/default/vip",
            "no key \"vip\" in tenant \"default\"",
            "callers send exactly",
        ),
    ];
    for (subject, problem, fix) in unknown {
        for strict in ["?strict", "?strict=true"] {
            let refused = put(&server, &format!("{subject}{strict}"), &json!("7/1d"), &[]).await;
            assert_eq!(refused.status(), StatusCode::NOT_FOUND, "{subject}");
            let detail = body(&refused)["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(problem) && detail.contains(fix), "{detail}");
            assert_eq!(get(&server, subject).await.status(), StatusCode::NOT_FOUND);
        }
        let set = put(
            &server,
            &format!("{subject}?strict=false"),
            &json!("7/1d"),
            &[],
        )
        .await;
        assert_eq!(set.status(), StatusCode::OK, "{subject}");
        let warning = body(&set)["warning"].as_str().unwrap().to_owned();
        assert!(
            warning.contains(problem) && warning.contains(fix),
            "{warning}"
        );
        assert_eq!(
            body(&get(&server, subject).await)["source"],
            json!("runtime")
        );
    }
    for known in [
        "tiers/pro",
        "tenants/acme",
        "tenants/default",
        "keys/acme/vip",
    ] {
        let set = put(&server, &format!("{known}?strict"), &json!("7/1d"), &[]).await;
        assert_eq!(set.status(), StatusCode::OK, "{known}");
        assert_eq!(body(&set).get("warning"), None, "{known}");
    }
}

#[tokio::test]
async fn wrong_limit_is_refused() {
    let server = start("");
    // A configured limit cannot be deleted.
    let deleted = admin(&server, Method::DELETE, "/limits/keys/acme/vip", &[], "").await;
    assert_eq!(deleted.status(), StatusCode::NOT_FOUND);
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
}

#[tokio::test]
async fn configuration_in_force_is_shown() {
    let server = start("");
    let said = body(&admin(&server, Method::GET, "/configuration", &[], "").await);
    assert_eq!(
        (&said["refused"], &said["outdated"]),
        (&json!(null), &json!(false))
    );
}

#[tokio::test]
async fn wrong_token_is_unauthorized_everywhere() {
    let server = start("");
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
async fn each_change_is_logged_with_the_admin() {
    let server = Replica::start(&[
        ("ADMIN__TOKENS__OPERATOR", TOKEN),
        ("ADMIN__TOKENS__BILLING", "token-of-billing"),
        ("LOG__FORMAT", "json"),
    ]);
    let billing = [("authorization", "Bearer token-of-billing")];
    let path = "/limits/keys/acme/a%0Ab";
    let text = r#"{"limits":"7/1d"}"#;
    let set = call(Method::PUT, server.admin(), path, &billing, text).await;
    assert_eq!(set.status(), StatusCode::OK);
    let deleted = admin(&server, Method::DELETE, path, &[], "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let reset = r#"{"key":"a\nb","rate":5,"interval":"1d"}"#;
    let reset = admin(&server, Method::POST, "/reset", &[], reset).await;
    assert_eq!(reset.status(), StatusCode::NO_CONTENT);

    server.until_it_says("reset a count").await;
    let log = server.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let changes: Vec<_> = lines
        .iter()
        .map(|line| &line["fields"])
        .filter(|fields| fields.get("admin").is_some())
        .collect();
    let [set_line, deleted_line, reset_line] = changes[..] else {
        panic!("{log}");
    };
    let said = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let lines = [
        (set_line, "billing", "keys/acme/a\nb", "7/1d"),
        (deleted_line, "operator", "keys/acme/a\nb", ""),
        (reset_line, "operator", "keys/default/a\nb", "5/1d"),
    ];
    for (line, name, subject, limits) in lines {
        assert_eq!(
            (said(line, "admin"), said(line, "subject")),
            (name.into(), subject.into())
        );
        assert!(said(line, "limits").contains(limits), "{line}");
    }
    assert_eq!(
        Some(&*said(set_line, "version")),
        body(&set)["version"].as_str()
    );
    assert!(
        said(deleted_line, "version").starts_with("2-"),
        "{deleted_line}"
    );
    assert!(!log.contains("token-of"), "{log}");
}

/// A client that does not wait for the reply cannot change a limit unseen.
#[tokio::test]
async fn change_of_a_client_that_left_is_logged() {
    let redis = Server::start().await;
    let network = Proxy::start(redis.address()).await;
    let server = start(&network.url());
    assert_eq!(limit(&server, "a").await, json!(20));
    network.delay(Duration::from_millis(100));
    let mut client = TcpStream::connect(server.admin()).await.unwrap();
    let text = r#"{"limits":"7/1d"}"#;
    let request = format!(
        "PUT /limits/keys/acme/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let wait = Wait::until("Redis has the limit, and its reply is on the way");
    while redis.calls("zadd").await == 0 {
        wait.sleep().await;
    }
    drop(client);
    let wait = Wait::until("the change is logged");
    while !server
        .log()
        .contains("admin=operator subject=\"keys/acme/a\"")
    {
        wait.sleep().await;
    }
}

#[tokio::test]
async fn reset_clears_the_count_everywhere() {
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
    // A limit in the request that equals the configured one has the same count.
    assert_eq!(
        body(&check(servers[0].http(), given).await)["allowed"],
        json!(false)
    );
    let reset = r#"{"key":"a","tenant":"acme"}"#;
    let answer = admin(&servers[0], Method::POST, "/reset", &[], reset).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let wait = Wait::until("the other replica admits the key again");
    while body(&check(servers[1].http(), ask).await)["allowed"] != json!(true) {
        wait.sleep().await;
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
async fn admin_without_tokens_does_not_listen() {
    let server = Replica::start(&[]);
    assert!(!server.listens_for("admin"));
}
