//! A server with an admin token, and calls of its admin API.
//!
//! A subject is what a limit applies to, as the path of the API has it: `tiers/pro`,
//! `tenants/acme` or `keys/acme/a`.

use hyper::Method;
use serde_json::{Value, json};

use super::http::{self, Response, check, json_body};
use super::{Server, Wait};

/// The token of the admin `operator`.
pub(crate) const TOKEN: &str = "token-of-the-operator";

/// The configured limit of the tier `pro`, to which the tenant `acme` belongs.
pub(crate) const PRO_LIMIT: u64 = 20;

/// Starts a server that counts in the process.
pub(crate) fn start() -> Server {
    Server::start(&settings())
}

/// Starts a server that counts in Redis.
pub(crate) fn start_with_redis(url: &str) -> Server {
    let mut settings = settings();
    settings.extend([("STORE__URL", url), ("STORE__DEADLINE", "15s")]);
    Server::start(&settings)
}

fn settings<'a>() -> Vec<(&'static str, &'a str)> {
    vec![
        ("ADMIN__TOKENS__OPERATOR", TOKEN),
        ("DEFAULT__LIMIT", "10/1d"),
        ("TIERS__PRO", "20/1d"),
        ("TENANTS__ACME__TIER", "pro"),
        ("TENANTS__ACME__KEYS__VIP", "40/1d"),
    ]
}

/// Calls the admin API with [`TOKEN`].
pub(crate) async fn call(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let token = format!("Bearer {TOKEN}");
    let mut with_token = vec![("authorization", &*token)];
    with_token.extend(headers);
    http::call(method, server.admin(), path, &with_token, body.to_owned()).await
}

/// Sets the limits of a subject: a text such as `10/1d`, or an object of named limits.
pub(crate) async fn put(server: &Server, subject: &str, limits: impl Into<Value>) -> Response {
    put_if(server, subject, limits, &[]).await
}

/// Sets the limits of a subject with these headers, such as `if-match`.
pub(crate) async fn put_if(
    server: &Server,
    subject: &str,
    limits: impl Into<Value>,
    headers: &[(&str, &str)],
) -> Response {
    let path = format!("/limits/{subject}");
    let body = json!({ "limits": limits.into() }).to_string();
    call(server, Method::PUT, &path, headers, &body).await
}

/// Gets the limits of a subject.
pub(crate) async fn get(server: &Server, subject: &str) -> Response {
    call(server, Method::GET, &format!("/limits/{subject}"), &[], "").await
}

/// Deletes the limits of a subject that were set at run time.
pub(crate) async fn delete(server: &Server, subject: &str) -> Response {
    let path = format!("/limits/{subject}");
    call(server, Method::DELETE, &path, &[], "").await
}

/// Returns a page of the list of limits.
pub(crate) async fn list(server: &Server, query: &str) -> Value {
    let path = format!("/limits?{query}");
    json_body(&call(server, Method::GET, &path, &[], "").await)
}

/// Returns the subjects of a page.
pub(crate) fn subjects(page: &Value) -> Vec<&str> {
    let limits = page["limits"].as_array().unwrap().iter();
    limits
        .map(|item| item["subject"].as_str().unwrap())
        .collect()
}

/// Returns the limit in force for a key of the tenant `acme`, as a check of cost 0 shows it.
pub(crate) async fn limit(server: &Server, key: &str) -> u64 {
    let body = json!({ "key": key, "tenant": "acme", "cost": 0 }).to_string();
    let response = check(server.http(), &body).await;
    let limit = json_body(&response)["limit"].as_u64();
    limit.unwrap_or_else(|| panic!("no limit in {response:?}"))
}

/// Waits until this limit is in force for a key of the tenant `acme`.
pub(crate) async fn wait_for_limit(server: &Server, key: &str, expected: u64) {
    let wait = Wait::until(format!("the limit of {key} is {expected}"));
    while limit(server, key).await != expected {
        wait.sleep().await;
    }
}
