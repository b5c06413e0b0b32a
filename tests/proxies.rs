//! Servers that are not one plain server: proxies, clusters behind one address, and servers that
//! lack commands.

#[path = "support/redis_proxy.rs"]
mod redis_proxy;
#[path = "support/redis/mod.rs"]
mod servers;

use std::collections::BTreeMap;
use std::error::Error;

use futures_util::future::join_all;
use redis_proxy::RedisProxy;
use servers::Server;
use tollgate::test_util::conformance;
use tollgate::{
    Check, Identity, Limits, Policy, Quota, RedisStore, Store, StoreError, StoreErrorKind,
};

/// The cause of an error.
fn reason(error: &StoreError) -> String {
    error.source().expect("a reason").to_string()
}

fn two_policies() -> Limits {
    let policies = [
        ("daily", Quota::per_day(3)),
        ("hourly", Quota::per_hour(100)),
    ];
    Limits::new(policies.map(|(name, quota)| Policy::new(name, quota))).unwrap()
}

/// Makes four checks of each of many identities, all of an identity's and of a round at once. Three of
/// each are allowed.
async fn spend_by_many(store: &RedisStore) {
    let limits = two_policies();
    let identities: Vec<_> = (0..100).map(|i| Identity::user(&i.to_string())).collect();
    let checks = identities.iter().map(|who| Check::new(who, &limits));
    let checks: Vec<_> = checks.cycle().take(400).collect();
    let answers = join_all(checks.iter().map(|check| store.check(check).wait())).await;
    let mut admitted = BTreeMap::<String, usize>::new();
    for (check, answer) in checks.iter().zip(answers) {
        let verdict = answer.unwrap_or_else(|error| panic!("{}: {error:?}", check.identity));
        *admitted.entry(check.identity.to_string()).or_default() +=
            usize::from(verdict.is_allowed());
    }
    assert_eq!(admitted.len(), 100);
    assert!(admitted.values().all(|times| *times == 3), "{admitted:?}");
}

/// How often this code is among the server's replies.
async fn errors(server: &Server, code: &str) -> u64 {
    let statistics: String = server.ask(&["INFO", "errorstats"]).await;
    let prefix = format!("errorstat_{code}:count=");
    let mut lines = statistics.lines();
    let count = lines.find_map(|line| line.strip_prefix(&prefix));
    count.map_or(0, |count| count.parse().unwrap())
}

/// A cluster of one node, as ElastiCache in cluster mode with one shard is.
async fn single_shard() -> Server {
    let server = Server::start_with(&["--cluster-enabled", "yes"]).await;
    server.serve_all_slots().await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_behind_one_address_needs_no_setting() {
    let server = single_shard().await;
    let store = RedisStore::new(&server.url()).unwrap();
    store.ping().await.unwrap();
    spend_by_many(&store).await;
    assert_eq!(
        errors(&server, "CROSSSLOT").await,
        1,
        "at the first connection"
    );
    conformance::check(store).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_hello_client_and_script_serves_all_checks() {
    let renamed = ["HELLO", "CLIENT", "SCRIPT"].map(|command| ["--rename-command", command, ""]);
    let server = Server::start_with(&renamed.concat()).await;
    let store = RedisStore::new(&server.url()).unwrap();
    store.ping().await.unwrap();
    spend_by_many(&store).await;
    conformance::check(store).await;

    let resp3 = RedisStore::new(&format!("{}?protocol=resp3", server.url())).unwrap();
    let error = resp3.ping().await.expect_err("RESP3 needs HELLO");
    assert!(reason(&error).contains("HELLO"), "{error:?}");
}

#[tokio::test]
async fn protocol_of_the_url_is_spoken() {
    let server = Server::start().await;
    for (query, hello) in [("", 0), ("?protocol=resp2", 0), ("?protocol=resp3", 1)] {
        server.reset_stats().await;
        let store = RedisStore::new(&format!("{}{query}", server.url())).unwrap();
        store.ping().await.unwrap();
        assert_eq!(server.calls("hello").await, hello, "`{query}`");
    }
    RedisStore::new("redis://localhost?protocol=resp4").expect_err("there is no such protocol");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_before_one_server_serves_all_checks() {
    let server = Server::start().await;
    let proxy = RedisProxy::envoy(&[server.port()]).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    spend_by_many(&store).await;
    conformance::check(store).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// Asks a store behind a proxy that spreads keys over these servers.
async fn spread(proxy: &RedisProxy, servers: &[Server]) {
    let store = RedisStore::builder(&proxy.url()).one_identity_per_call(true);
    let store = store.build().unwrap();
    store.ping().await.unwrap();
    spend_by_many(&store).await;
    for server in servers {
        server.command(&["SCRIPT", "FLUSH"]).await;
    }
    conformance::check(store).await;
    for server in servers {
        let keys = server.keys().await;
        let users = keys.iter().filter(|key| key.contains("{user:"));
        assert!(users.count() > 0, "a server has no counts");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
    let [here, there] = [servers[0].keys().await, servers[1].keys().await];
    let both = here.iter().filter(|key| there.contains(key));
    assert_eq!(
        both.collect::<Vec<_>>(),
        [""; 0],
        "no count is at both servers"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_before_several_servers_sends_each_identity_to_one() {
    let servers = [Server::start().await, Server::start().await];
    let proxy = RedisProxy::envoy(&servers.each_ref().map(Server::port)).await;
    spread(&proxy, &servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twemproxy_serves_all_checks() {
    let servers = [Server::start().await, Server::start().await];
    let ports = servers.each_ref().map(Server::port);
    let Some(proxy) = RedisProxy::twemproxy(&ports).await else {
        servers::skip("twemproxy: nutcracker is not installed");
        return;
    };
    spread(&proxy, &servers).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn unix_socket_is_connected_to_by_url() {
    let directory = tempfile::TempDir::with_prefix("tollgate-socket-").unwrap();
    let path = directory.path().join("redis.sock");
    let path = path.to_str().unwrap();
    let server = Server::start_with(&["--unixsocket", path, "--databases", "4"]).await;
    let user = [
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">open-sesame-7",
        "~*",
        "+@all",
    ];
    server.command(&user).await;
    for url in [
        format!("redis+unix://{path}"),
        format!("unix://{path}?db=3&user=app&pass=open-sesame-7"),
    ] {
        let store = RedisStore::new(&url).unwrap();
        store.ping().await.unwrap();
        spend_by_many(&store).await;
        assert_eq!(store.lane_name(0), path);
        server.command(&["FLUSHALL"]).await;
    }
    let nobody = format!("unix://{path}.missing?user=app&pass=open-sesame-7");
    let error = RedisStore::new(&nobody).unwrap().ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let reason = reason(&error);
    assert!(
        reason.contains(path) && !reason.contains("open-sesame"),
        "{reason}"
    );
}
