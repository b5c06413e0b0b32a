//! The store works with proxies, with clusters behind one address, with servers that lack commands,
//! and over Unix sockets.

#[path = "support/redis_proxy.rs"]
mod redis_proxy;
#[path = "support/redis/mod.rs"]
mod servers;

use std::collections::BTreeMap;
use std::error::Error;

use futures_util::future::join_all;
use redis_proxy::RedisProxy;
use servers::Server;
use tollgate::store::conformance;
use tollgate::{
    Check, Identity, Limits, Policy, Quota, RedisStore, Store, StoreError, StoreErrorKind,
};

/// Returns the text of the cause of an error.
fn cause(error: &StoreError) -> String {
    error.source().expect("a cause").to_string()
}

fn two_policies() -> Limits {
    let policies = [
        ("daily", Quota::per_day(3)),
        ("hourly", Quota::per_hour(100)),
    ];
    Limits::new(policies.map(|(name, quota)| Policy::new(name, quota))).unwrap()
}

/// Makes four concurrent checks of each of 100 identities. Asserts that three of each are allowed.
async fn spend_quotas(store: &RedisStore) {
    let limits = two_policies();
    let identities: Vec<_> = (0..100).map(|i| Identity::user(&i.to_string())).collect();
    let checks = identities.iter().map(|user| Check::new(user, &limits));
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

/// Starts a cluster of one node, as ElastiCache is in cluster mode with one shard.
async fn single_shard() -> Server {
    let server = Server::start_with(&["--cluster-enabled", "yes"]).await;
    server.serve_all_slots().await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn single_shard_cluster_needs_no_option() {
    let server = single_shard().await;
    let store = RedisStore::new(&server.url()).unwrap();
    store.ping().await.unwrap();
    spend_quotas(&store).await;
    assert_eq!(
        server.errors("CROSSSLOT").await,
        1,
        "only the first connection tests it"
    );
    conformance::check(store).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_hello_client_and_script_works() {
    let renamed = ["HELLO", "CLIENT", "SCRIPT"].map(|command| ["--rename-command", command, ""]);
    let server = Server::start_with(&renamed.concat()).await;
    let store = RedisStore::new(&server.url()).unwrap();
    store.ping().await.unwrap();
    spend_quotas(&store).await;
    conformance::check(store).await;

    let resp3 = RedisStore::new(&format!("{}?protocol=resp3", server.url())).unwrap();
    let error = resp3.ping().await.expect_err("RESP3 needs HELLO");
    assert!(cause(&error).contains("HELLO"), "{error:?}");
}

#[tokio::test]
async fn protocol_parameter_of_the_url_is_used() {
    let server = Server::start().await;
    for (query, hello) in [("", 0), ("?protocol=resp2", 0), ("?protocol=resp3", 1)] {
        server.reset_stats().await;
        let store = RedisStore::new(&format!("{}{query}", server.url())).unwrap();
        store.ping().await.unwrap();
        assert_eq!(server.calls("hello").await, hello, "`{query}`");
    }
    RedisStore::new("redis://localhost?protocol=resp4").expect_err("an unknown protocol");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_with_one_server_works() {
    let server = Server::start().await;
    let proxy = RedisProxy::envoy(&[server.port()]).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    spend_quotas(&store).await;
    conformance::check(store).await;
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// Asserts that a store works behind a proxy that distributes keys over these servers.
async fn check_distributing_proxy(proxy: &RedisProxy, servers: &[Server]) {
    let store = RedisStore::builder(&proxy.url()).one_identity_per_call(true);
    let store = store.build().unwrap();
    store.ping().await.unwrap();
    spend_quotas(&store).await;
    for server in servers {
        server.command(&["SCRIPT", "FLUSH"]).await;
    }
    conformance::check(store).await;
    for server in servers {
        let keys = server.keys().await;
        let user_keys = keys.iter().filter(|key| key.contains("{user:"));
        assert!(user_keys.count() > 0, "a server has no counts");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
    let [first, second] = [servers[0].keys().await, servers[1].keys().await];
    let common = first.iter().filter(|key| second.contains(key));
    assert_eq!(
        common.collect::<Vec<_>>(),
        [""; 0],
        "no key is at both servers"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_with_several_servers_keeps_identities_together() {
    let servers = [Server::start().await, Server::start().await];
    let proxy = RedisProxy::envoy(&servers.each_ref().map(Server::port)).await;
    check_distributing_proxy(&proxy, &servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twemproxy_with_several_servers_works() {
    let servers = [Server::start().await, Server::start().await];
    let ports = servers.each_ref().map(Server::port);
    let Some(proxy) = RedisProxy::twemproxy(&ports).await else {
        servers::skip("twemproxy: nutcracker is not installed");
        return;
    };
    check_distributing_proxy(&proxy, &servers).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn unix_socket_url_connects() {
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
        spend_quotas(&store).await;
        assert_eq!(store.lane_name(0), path);
        server.command(&["FLUSHALL"]).await;
    }
    let missing = format!("unix://{path}.missing?user=app&pass=open-sesame-7");
    let error = RedisStore::new(&missing).unwrap().ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let cause = cause(&error);
    assert!(
        cause.contains(path) && !cause.contains("open-sesame"),
        "{cause}"
    );
}
