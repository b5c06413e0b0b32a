//! The store discovers the nodes of a cluster or behind sentinels, and drops nodes that are gone.

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod support;

use std::time::Duration;

use futures_util::future::join_all;
use servers::{Cluster, Proxy, Sentinels, Server, Wait};
use tollgate::{Check, Identity, Limits, Quota, RedisStore, Store};

use support::{LONG_DEADLINE, User, closed_limiter, names_in_slots};

/// Returns a user of each primary: the slots are divided into three ranges.
fn users() -> [User; 3] {
    let name = |primary: u16| {
        names_in_slots(primary * 5_462..primary * 5_462 + 5_000)
            .next()
            .unwrap()
    };
    [0, 1, 2].map(|primary| User::new(&name(primary)))
}

/// Cuts a primary off: all other nodes forget it, it forgets them, and its replica takes over.
async fn isolate(cluster: &Cluster, index: usize) {
    let nodes = cluster.nodes();
    for (other, node) in nodes
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != index)
    {
        // A replica does not forget its primary until it has taken over.
        if other != index + 3 {
            node.command(&["CLUSTER", "FORGET", cluster.node_id(index)])
                .await;
        }
        let forget = ["CLUSTER", "FORGET", cluster.node_id(other)];
        nodes[index].command(&forget).await;
    }
    nodes[index + 3]
        .command(&["CLUSTER", "FAILOVER", "TAKEOVER"])
        .await;
    let wait = Wait::until("the replica has taken over");
    while !nodes[index + 3].is_primary().await {
        wait.sleep().await;
    }
    let forget = ["CLUSTER", "FORGET", cluster.node_id(index)];
    nodes[index + 3].command(&forget).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_slot_map_of_an_isolated_node_is_outvoted() {
    let cluster = Cluster::start().await;
    isolate(&cluster, 0).await;
    let urls = [0, 1, 2, 3].map(|index| cluster.nodes()[index].url());
    // Repeated, since it is random which nodes answer first.
    for _ in 0..20 {
        let store = RedisStore::cluster(urls.iter().map(String::as_str));
        let store = store.build().unwrap();
        store.ping().await.unwrap();
        let limiter = closed_limiter(&store, LONG_DEADLINE);
        for mut user in users() {
            user.spend(&limiter, 1).await;
            let check = Check::new(&user.identity, &user.limits);
            store.reset(&check).wait().await.unwrap();
        }
    }
    let keys = cluster.nodes()[0].keys().await;
    assert!(!keys.iter().any(|key| key.contains("{user:")), "{keys:?}");
}

/// Starts a proxy for each node. Returns the proxies and a function for `map_address` that maps
/// each node to its proxy.
async fn start_proxies(
    cluster: &Cluster,
) -> (
    Vec<Proxy>,
    impl Fn(&str, u16) -> (String, u16) + Clone + use<>,
) {
    let proxies = cluster.nodes().iter().map(Server::address);
    let proxies = join_all(proxies.map(Proxy::start)).await;
    let ports = cluster.nodes().iter().map(Server::port);
    let proxied = proxies.iter().map(|proxy| proxy.address().port());
    let ports: Vec<_> = ports.zip(proxied).collect();
    let map = move |host: &str, port: u16| {
        let (_, proxied) = ports.iter().find(|(node, _)| *node == port).expect(host);
        (host.into(), *proxied)
    };
    (proxies, map)
}

/// Open connections stay open, but only the isolated node can be asked for its slot map.
#[tokio::test(flavor = "multi_thread")]
async fn incomplete_slot_map_replaces_no_complete_one() {
    let cluster = Cluster::start().await;
    let (proxies, map) = start_proxies(&cluster).await;
    let store = RedisStore::cluster([proxies[0].url().as_str()]).map_address(map);
    let store = store.build().unwrap();
    let limiter = closed_limiter(&store, LONG_DEADLINE);
    let mut users = users();
    for user in &mut users {
        user.spend(&limiter, 1).await;
    }

    isolate(&cluster, 0).await;
    for proxy in &proxies {
        proxy.refuse_connections();
    }
    proxies[0].close_connections();
    let impatient = closed_limiter(&store, Duration::from_millis(500));
    users[0].wait_until_degraded(&impatient).await;
    proxies[0].forward();
    let connections = proxies[0].connections();
    let wait = Wait::until("the isolated node is asked for its slot map");
    while proxies[0].connections() < connections + 3 {
        let check = Check::new(&users[0].identity, &users[0].limits);
        let _ = store.check(&check).wait().await;
        proxies[0].close_connections();
        wait.sleep().await;
    }
    for user in &mut users[1..] {
        user.spend(&limiter, 1).await;
    }
}

/// The round trip is 260 ms, longer than the 250 ms that a reply has at least.
#[tokio::test(flavor = "multi_thread")]
async fn distant_cluster_is_discovered() {
    let cluster = Cluster::start().await;
    let (proxies, map) = start_proxies(&cluster).await;
    for node in cluster.nodes() {
        let user = ["ACL", "SETUSER", "far", "on", ">away", "~*", "+@all"];
        node.command(&user).await;
    }
    for proxy in &proxies {
        proxy.delay(Duration::from_millis(130));
    }
    let builder = |user: &str| {
        let url = proxies[0].url();
        let url = url.replace("redis://", &format!("redis://{user}"));
        RedisStore::cluster([url.as_str()]).map_address(map.clone())
    };
    // Connecting to a proxy is instant, so only the login measures the round trip of the first
    // store.
    for store in [
        builder("far:away@"),
        builder("").discovery_timeout(Duration::from_secs(5)),
    ] {
        let store = store.build().unwrap();
        let limiter = closed_limiter(&store, LONG_DEADLINE);
        for mut user in users() {
            user.spend(&limiter, 1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lane_has_its_nodes_name_and_ends_with_it() {
    let cluster = Cluster::start().await;
    let urls = cluster.urls();
    let store = RedisStore::cluster(urls.iter().map(String::as_str));
    let store = store.build().unwrap();
    assert_eq!(store.lane_name(0), "cluster", "before any node is known");
    let limiter = closed_limiter(&store, LONG_DEADLINE);
    let mut users = users();
    for user in &mut users {
        user.spend(&limiter, 1).await;
    }
    let lane = |user: &User| store.lane(&Check::new(&user.identity, &user.limits));
    for (user, node) in users.iter().zip(cluster.nodes()) {
        assert_eq!(store.lane_name(lane(user)), node.address().to_string());
    }

    // After a manual failover the old primary has no slots.
    let old = lane(&users[0]);
    let clients = async |node: &Server| -> usize {
        let list: String = node.query(&["CLIENT", "LIST", "TYPE", "normal"]).await;
        list.lines()
            .filter(|line| line.contains("cmd=eval"))
            .count()
    };
    assert_eq!(clients(&cluster.nodes()[0]).await, 1);
    cluster.nodes()[3].command(&["CLUSTER", "FAILOVER"]).await;
    let slot = cluster.slot_of(&users[0].hash_tag()).await;
    cluster.new_primary_of(slot, 0).await;
    users[0].spend(&limiter, 1).await;
    let wait = Wait::until("the connection to the old primary is closed");
    while clients(&cluster.nodes()[0]).await > 0 {
        users[0].is_decided_by_store(&limiter).await;
        wait.sleep().await;
    }
    assert_ne!(lane(&users[0]), old);
    assert_eq!(store.lane_name(old), "cluster");
    assert_eq!(
        store.lane_name(lane(&users[0])),
        cluster.nodes()[3].address().to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_named_by_sentinels_are_mapped() {
    let sentinels = Sentinels::start().await;
    let proxy = Proxy::start(sentinels.nodes()[0].address()).await;
    let port = proxy.address().port();
    let urls = sentinels.urls();
    let store = RedisStore::sentinel(urls.iter().map(String::as_str), sentinels.service_name())
        .map_address(move |_, _| ("localhost".into(), port));
    let store = store.build().unwrap();
    store.ping().await.unwrap();
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(10)));
    let verdict = store.check(&Check::new(&alice, &limits)).wait().await;
    assert!(verdict.unwrap().is_allowed());
    assert_eq!(proxy.connections(), 1);
    assert_eq!(store.lane_name(0), sentinels.service_name());
}
