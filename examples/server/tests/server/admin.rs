//! The admin API: limits that are set at run time reach every replica and survive restarts,
//! conflicting writes are refused, and every change is logged.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::admin::{
    PRO_LIMIT, TOKEN, call, delete, get, limit, list, put, put_if, start, start_with_redis,
    subjects, wait_for_limit,
};
use crate::support::http::{check, header, json_body};
use crate::support::redis_servers::Proxy;
use crate::support::{Redis, Server, Wait, http, json_lines};

#[tokio::test]
async fn change_reaches_every_replica() {
    let redis = Redis::start().await;
    let servers = [(); 3].map(|()| start_with_redis(&redis.url()));
    for server in &servers {
        assert_eq!(limit(server, "a").await, PRO_LIMIT);
    }
    let set = put(&servers[0], "tiers/pro", "30/1d").await;
    assert_eq!(set.status(), StatusCode::OK);
    // The replica that took the change applies it at once.
    assert_eq!(limit(&servers[0], "a").await, 30);
    for server in &servers {
        wait_for_limit(server, "a", 30).await;
    }
    // A limit of a tenant precedes one of its tier, and a limit of a key precedes both.
    put(&servers[1], "tenants/acme", json!({ "day": "31/1d" })).await;
    put(&servers[2], "keys/acme/user:42", "32/1d").await;
    for server in &servers {
        wait_for_limit(server, "a", 31).await;
        wait_for_limit(server, "user:42", 32).await;
        assert_eq!(limit(server, "vip").await, 40, "as configured");
    }
    let deleted = delete(&servers[0], "tenants/acme").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    for server in &servers {
        wait_for_limit(server, "a", 30).await;
    }
}

#[tokio::test]
async fn replicas_poll_the_revision() {
    let redis = Redis::start().await;
    let server = start_with_redis(&redis.url());
    assert_eq!(limit(&server, "a").await, PRO_LIMIT);
    let before = redis.calls("hget").await;
    let wait = Wait::until("the server has read the revision four more times");
    while redis.calls("hget").await < before + 4 {
        wait.sleep().await;
    }
    let page_reads = redis.calls("zrange").await;
    assert_eq!(page_reads, 0, "the revision has not changed");
}

#[tokio::test]
async fn limits_survive_restarts_and_outages() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let servers = [(); 3].map(|()| start_with_redis(&redis.url()));
    put(&servers[0], "tiers/pro", "30/1d").await;
    let tier = get(&servers[0], "tiers/pro").await;
    let version = header(&tier, "etag").unwrap();
    wait_for_limit(&servers[2], "a", 30).await;
    drop(servers);
    redis.restart().await;
    let servers = [(); 3].map(|()| start_with_redis(&redis.url()));
    for server in &servers {
        wait_for_limit(server, "a", 30).await;
        let tier = get(server, "tiers/pro").await;
        assert_eq!(header(&tier, "etag"), Some(version));
    }
    // While Redis is down, the known limits stay in force. When it is back, changes arrive again.
    redis.kill();
    servers[1].wait_for_log("cannot be read (").await;
    assert_eq!(limit(&servers[1], "a").await, 30);
    let refused = put(&servers[1], "tiers/pro", "50/1d").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    redis.restart().await;
    servers[0]
        .wait_for_log("run-time limits can be read again")
        .await;
    let set = put(&servers[0], "tiers/pro", "33/1d").await;
    assert_eq!(set.status(), StatusCode::OK);
    for server in &servers {
        wait_for_limit(server, "a", 33).await;
    }
}

/// Asserts that each write applies only to the version that its headers name. The two servers may
/// be the same.
async fn assert_conflicts_are_refused(server: &Server, other: &Server) {
    const SUBJECT: &str = "keys/acme/a%2Fb";
    let if_absent = [("if-none-match", "*")];
    let created = put_if(server, SUBJECT, "1/1d", &if_absent).await;
    assert_eq!(created.status(), StatusCode::OK);
    let first_version = header(&created, "etag").unwrap();
    let refused = put_if(other, SUBJECT, "2/1d", &if_absent).await;
    assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
    // Two operators read the same version, and one of them writes first.
    let read = get(other, SUBJECT).await;
    assert_eq!(header(&read, "etag"), Some(first_version));
    let item = json_body(&read);
    assert_eq!(item["subject"], json!("keys/acme/a/b"));
    assert_eq!(
        (&item["limits"], &item["source"]),
        (&json!({"default": "1/1d"}), &json!("runtime"))
    );
    let if_first_version = [("if-match", first_version)];
    let faster = put_if(server, SUBJECT, "3/1d", &if_first_version).await;
    assert_eq!(faster.status(), StatusCode::OK);
    let path = format!("/limits/{SUBJECT}");
    for method in [Method::PUT, Method::DELETE] {
        let body = r#"{"limits":"4/1d"}"#;
        let slower = call(other, method, &path, &if_first_version, body).await;
        assert_eq!(slower.status(), StatusCode::PRECONDITION_FAILED);
    }
    let read = get(other, SUBJECT).await;
    assert_eq!(json_body(&read)["limits"], json!({"default": "3/1d"}));
    let if_current_version = [("if-match", header(&read, "etag").unwrap())];
    let deleted = call(other, Method::DELETE, &path, &if_current_version, "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let read = get(server, SUBJECT).await;
    assert_eq!(read.status(), StatusCode::NOT_FOUND);
    let if_present = [("if-match", "*")];
    let refused = put_if(server, SUBJECT, "5/1d", &if_present).await;
    assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn write_to_an_outdated_version_is_refused() {
    let redis = Redis::start().await;
    let servers = [(); 2].map(|()| start_with_redis(&redis.url()));
    assert_conflicts_are_refused(&servers[0], &servers[1]).await;
    let server = start();
    assert_conflicts_are_refused(&server, &server).await;
}

#[tokio::test]
async fn list_merges_configured_and_set_limits() {
    let server = start();
    put(&server, "tenants/globex", "7/1d").await;
    put(&server, "keys/acme/vip", "8/1d").await;
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
async fn list_pages_are_in_order_of_subjects() {
    let server = start();
    // Subjects are compared as texts, in which `-` sorts before `/`.
    let all = [
        "keys/acme-eu/a",
        "keys/acme/a",
        "keys/acme/b/c",
        "keys/acme/d",
        "keys/acme/vip",
        "tiers/pro",
    ];
    for subject in [all[3], all[0], all[1]] {
        put(&server, subject, "7/1d").await;
    }
    put(&server, "keys/acme/b%2Fc", "7/1d").await;
    for size in 1..=all.len() + 1 {
        let mut listed = Vec::new();
        let mut query = format!("limit={size}");
        loop {
            let page = list(&server, &query).await;
            let subjects = subjects(&page);
            assert!(subjects.len() <= size);
            listed.extend(subjects.iter().map(|&subject| subject.to_owned()));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            assert_eq!(subjects.len(), size, "only the last page is shorter");
            assert_eq!(subjects.last(), Some(&next));
            query = format!("limit={size}&after={}", next.replace('/', "%2F"));
        }
        assert_eq!(listed, all, "pages of {size}");
    }
    let page = list(&server, "prefix=keys/acme/&limit=2&after=keys/acme/a").await;
    assert_eq!(subjects(&page), all[2..4]);
    assert_eq!(page["next"], json!(all[3]));
    let page = list(&server, "prefix=keys/acme/&after=keys/acme/d").await;
    assert_eq!((subjects(&page), page.get("next")), (vec![all[4]], None));
    assert_eq!(subjects(&list(&server, "prefix=t").await), [all[5]]);
    let page = list(&server, "prefix=keys/acme/nobody").await;
    assert_eq!(subjects(&page), [""; 0]);
    // `after` need not exist: the subject may have been deleted since the page before.
    let page = list(&server, "after=keys/acme/c").await;
    assert_eq!(subjects(&page), all[3..]);
}

#[tokio::test]
async fn invalid_parameter_is_named() {
    let server = start();
    let invalid = [
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
    for (method, path, field) in invalid {
        let response = call(&server, method, path, &[], r#"{"limits":"7/1d"}"#).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(json_body(&response)["field"], json!(field), "{path}");
    }
    let read = get(&server, "tenants/acme").await;
    assert_eq!(read.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn unknown_subject_gets_a_warning_or_an_error() {
    let server = start();
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
        let is_explained = |text: &Value| {
            let text = text.as_str().unwrap();
            text.contains(problem) && text.contains(fix)
        };
        for strict in ["?strict", "?strict=true"] {
            let refused = put(&server, &format!("{subject}{strict}"), "7/1d").await;
            assert_eq!(refused.status(), StatusCode::NOT_FOUND, "{subject}");
            let body = json_body(&refused);
            assert!(is_explained(&body["detail"]), "{body}");
            let read = get(&server, subject).await;
            assert_eq!(read.status(), StatusCode::NOT_FOUND);
        }
        let set = put(&server, &format!("{subject}?strict=false"), "7/1d").await;
        assert_eq!(set.status(), StatusCode::OK, "{subject}");
        let body = json_body(&set);
        assert!(is_explained(&body["warning"]), "{body}");
        let read = get(&server, subject).await;
        assert_eq!(json_body(&read)["source"], json!("runtime"));
    }
    for known in [
        "tiers/pro",
        "tenants/acme",
        "tenants/default",
        "keys/acme/vip",
    ] {
        let set = put(&server, &format!("{known}?strict"), "7/1d").await;
        assert_eq!(set.status(), StatusCode::OK, "{known}");
        assert_eq!(json_body(&set).get("warning"), None, "{known}");
    }
}

#[tokio::test]
async fn configured_limit_cannot_be_deleted() {
    let server = start();
    let refused = delete(&server, "keys/acme/vip").await;
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn invalid_limit_is_refused() {
    let server = start();
    let invalid = [
        ("tenants/a b", r#"{"limits":"7/1d"}"#, None),
        ("teams/a", r#"{"limits":"7/1d"}"#, None),
        ("tenants/a", r#"{"limits":"7"}"#, Some("limits")),
        ("tenants/a", r#"{"limits":{"a":"0/1d"}}"#, Some("limits.a")),
        ("tenants/a", r#"{"limit":"7/1d"}"#, Some("limit")),
        ("tenants/a", r#"{}"#, Some("limits")),
    ];
    for (subject, body, field) in invalid {
        let path = format!("/limits/{}", subject.replace(' ', "%20"));
        let refused = call(&server, Method::PUT, &path, &[], body).await;
        assert_eq!(
            refused.status(),
            StatusCode::BAD_REQUEST,
            "{subject} {body}"
        );
        let problem = json_body(&refused);
        assert_eq!(problem["field"].as_str(), field, "{problem}");
    }
    let unquoted_version = [("if-match", "bare")];
    let refused = put_if(&server, "tenants/a", "7/1d", &unquoted_version).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn configuration_shows_no_refused_reload() {
    let server = start();
    let response = call(&server, Method::GET, "/configuration", &[], "").await;
    let body = json_body(&response);
    assert_eq!(
        (&body["refused"], &body["outdated"]),
        (&json!(null), &json!(false))
    );
}

#[tokio::test]
async fn wrong_token_is_unauthorized_on_every_path() {
    let server = start();
    for authorization in [
        "",
        "Bearer ",
        "Bearer another",
        "Basic token-of-the-operator",
    ] {
        for path in ["/limits", "/limits/tenants/globex", "/nothing"] {
            let headers = [("authorization", authorization)];
            let refused = http::call(Method::GET, server.admin(), path, &headers, "").await;
            let status = refused.status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{authorization:?} {path}");
        }
    }
}

#[tokio::test]
async fn each_change_is_logged_with_the_admin() {
    let server = Server::start(&[
        ("ADMIN__TOKENS__OPERATOR", TOKEN),
        ("ADMIN__TOKENS__BILLING", "token-of-billing"),
        ("LOG__FORMAT", "json"),
    ]);
    let billing = [("authorization", "Bearer token-of-billing")];
    let path = "/limits/keys/acme/a%0Ab";
    let body = r#"{"limits":"7/1d"}"#;
    let set = http::call(Method::PUT, server.admin(), path, &billing, body).await;
    assert_eq!(set.status(), StatusCode::OK);
    let deleted = call(&server, Method::DELETE, path, &[], "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let body = r#"{"key":"a\nb","rate":5,"interval":"1d"}"#;
    let reset = call(&server, Method::POST, "/reset", &[], body).await;
    assert_eq!(reset.status(), StatusCode::NO_CONTENT);

    server.wait_for_log("reset a count").await;
    let log = server.log();
    let lines = json_lines(&log);
    let fields = lines.iter().map(|line| &line["fields"]);
    let changes: Vec<_> = fields
        .filter(|fields| fields.get("admin").is_some())
        .collect();
    let [set_fields, delete_fields, reset_fields] = changes[..] else {
        panic!("{log}");
    };
    let expected = [
        (set_fields, "billing", "keys/acme/a\nb", "7/1d"),
        (delete_fields, "operator", "keys/acme/a\nb", ""),
        (reset_fields, "operator", "keys/default/a\nb", "5/1d"),
    ];
    for (fields, admin, subject, limits) in expected {
        assert_eq!(
            (&fields["admin"], &fields["subject"]),
            (&json!(admin), &json!(subject))
        );
        let logged = fields["limits"].as_str().unwrap_or_default();
        assert!(logged.contains(limits), "{fields}");
    }
    let body = json_body(&set);
    let version = body["version"].as_str().unwrap();
    assert_eq!(set_fields["version"], json!(version));
    let version = delete_fields["version"].as_str().unwrap();
    assert!(version.starts_with("2-"), "{delete_fields}");
    assert!(!log.contains("token-of"), "{log}");
}

/// Otherwise a client that disconnects before the response could change a limit without a trace.
#[tokio::test]
async fn change_of_a_disconnected_client_is_logged() {
    let redis = Redis::start().await;
    let network = Proxy::start(redis.address()).await;
    let server = start_with_redis(&network.url());
    assert_eq!(limit(&server, "a").await, PRO_LIMIT);
    network.delay(Duration::from_millis(100));
    let mut client = TcpStream::connect(server.admin()).await.unwrap();
    let body = r#"{"limits":"7/1d"}"#;
    let request = format!(
        "PUT /limits/keys/acme/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    // The network then still delays the reply of Redis.
    let wait = Wait::until("Redis has the limit");
    while redis.calls("zadd").await == 0 {
        wait.sleep().await;
    }
    drop(client);
    let logged = "admin=operator subject=\"keys/acme/a\"";
    server.wait_for_log(logged).await;
}

#[tokio::test]
async fn reset_clears_the_count_on_every_replica() {
    let redis = Redis::start().await;
    let servers = [(); 2].map(|()| start_with_redis(&redis.url()));
    let whole_quota = r#"{"key":"a","tenant":"acme","cost":20}"#;
    let is_allowed = async |server: &Server, body: &str| {
        json_body(&check(server.http(), body).await)["allowed"] == json!(true)
    };
    assert!(is_allowed(&servers[0], whole_quota).await);
    assert!(!is_allowed(&servers[0], whole_quota).await);
    assert!(!is_allowed(&servers[1], whole_quota).await);
    // A limit in the request that equals the configured one has the same count.
    let given = r#"{"key":"a","tenant":"acme","rate":20,"interval":"1d","cost":20}"#;
    assert!(!is_allowed(&servers[0], given).await);
    let body = r#"{"key":"a","tenant":"acme"}"#;
    let reset = call(&servers[0], Method::POST, "/reset", &[], body).await;
    assert_eq!(reset.status(), StatusCode::NO_CONTENT);
    let wait = Wait::until("the second server allows the key again");
    while !is_allowed(&servers[1], whole_quota).await {
        wait.sleep().await;
    }
    let without_key = r#"{"tenant":"acme"}"#;
    let refused = call(&servers[0], Method::POST, "/reset", &[], without_key).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn admin_without_tokens_does_not_listen() {
    let server = Server::start(&[]);
    assert!(!server.has_listener("admin"));
}
