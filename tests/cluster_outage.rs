//! When a node of a cluster fails, only identities in its slots degrade, until another node serves
//! these slots.

#[path = "support/load.rs"]
mod load;
#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod support;

use std::time::Duration;

use futures_util::future::join_all;
use load::Load;
use servers::{Cluster, Proxy, Server, Wait};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tollgate::store::Outcome;
use tollgate::{Check, Limiter, Limits, RedisStore, Store};

use support::{
    LONG_DEADLINE, QUOTA, SHORT_DEADLINE, User, closed_limiter, names_in_slots, wait_for_replica,
};

/// The number of slots of the first primary.
const FIRST: u16 = 5_461;

/// Starts a cluster that serves its other slots when a shard is down.
async fn start() -> Cluster {
    let cluster = Cluster::start().await;
    let words = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
    join_all(cluster.nodes().iter().map(|node| node.command(&words))).await;
    cluster
}

fn store<'a>(urls: impl IntoIterator<Item = &'a String>) -> RedisStore {
    let urls = urls.into_iter().map(String::as_str);
    RedisStore::cluster(urls).build().unwrap()
}

/// Returns a user in a slot of the first primary.
fn victim() -> User {
    User::new(&names_in_slots(0..FIRST).next().unwrap())
}

/// Makes checks of users in slots of the other primaries. No check may degrade.
fn check_bystanders(limiter: &Limiter) -> Load<()> {
    let mut load = Load::new();
    let limiter = limiter.clone();
    let names = names_in_slots(FIRST + 1..16_384).take(8);
    let users: Vec<_> = names.map(|name| User::new(&name)).collect();
    load.spawn(|running| async move {
        while running.get() {
            for user in &users {
                assert!(
                    user.is_decided_by_store(&limiter).await,
                    "{}",
                    user.identity
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_shard_degrades_only_its_own_users() {
    let cluster = start().await;
    let old_store = store(&cluster.urls());
    let [patient, limiter] =
        [LONG_DEADLINE, SHORT_DEADLINE].map(|deadline| closed_limiter(&old_store, deadline));
    let mut victim = victim();
    let slot = cluster.slot_of(&victim.hash_tag()).await;
    victim.spend(&patient, 4).await;
    let lane = old_store.lane(&Check::new(&victim.identity, &victim.limits));
    wait_for_replica(&cluster.nodes()[0], &victim.hash_tag()).await;
    let bystanders = check_bystanders(&limiter);

    cluster.kill(0);
    victim.wait_until_degraded(&limiter).await;
    let successor = cluster.new_primary_of(slot, 0).await;
    victim.wait_until_store_decides(&limiter).await;
    victim.spend_remaining(&patient).await;
    let probe = old_store.probe(lane, servers::TIMEOUT);
    assert!(
        matches!(probe, Outcome::Ready(Ok(_))),
        "the lane is no longer in use"
    );

    cluster.kill(successor);
    victim.wait_until_degraded(&limiter).await;
    for _ in 0..20 {
        assert!(!victim.is_decided_by_store(&limiter).await);
        sleep(Duration::from_millis(20)).await;
    }
    let new_store = store(&cluster.urls());
    new_store.ping().await.expect_err("a node is down");
    let mut other = User::new(&names_in_slots(FIRST + 1..16_384).next().unwrap());
    other
        .spend(&closed_limiter(&new_store, LONG_DEADLINE), 1)
        .await;
    let probe = new_store.probe(0, servers::TIMEOUT);
    assert!(
        matches!(probe, Outcome::Ready(Ok(_))),
        "all slots are known"
    );

    cluster.nodes()[successor].restart().await;
    victim.wait_until_store_decides(&limiter).await;
    bystanders.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_primary_is_replaced_and_returns_as_replica() {
    let cluster = start().await;
    let store = store(&cluster.urls());
    let [patient, limiter] =
        [LONG_DEADLINE, SHORT_DEADLINE].map(|deadline| closed_limiter(&store, deadline));
    let mut victim = victim();
    let slot = cluster.slot_of(&victim.hash_tag()).await;
    victim.spend(&patient, 4).await;
    let paused = &cluster.nodes()[0];
    wait_for_replica(paused, &victim.hash_tag()).await;
    let bystanders = check_bystanders(&limiter);

    paused.pause();
    victim.wait_until_degraded(&limiter).await;
    cluster.new_primary_of(slot, 0).await;
    victim.wait_until_store_decides(&limiter).await;
    victim.spend(&patient, 2).await;

    paused.resume();
    let wait = Wait::until("the old primary is a replica");
    while paused.is_primary().await {
        victim.wait_until_store_decides(&limiter).await;
        wait.sleep().await;
    }
    cluster.primary_of(slot).await;
    victim.spend_remaining(&patient).await;
    bystanders.stop().await;
}

#[tokio::test]
async fn unusable_seeds_are_skipped_and_retried() {
    let cluster = start().await;
    let dead = Server::start().await;
    dead.kill();
    let standalone = Server::start().await;
    let error = store(&[standalone.url()])
        .ping()
        .await
        .expect_err("no cluster");
    assert!(
        format!("{error:?}").contains("cluster support disabled"),
        "{error:?}"
    );
    let without_slots = Server::start_with(&["--cluster-enabled", "yes"]).await;
    let healthy = &cluster.nodes()[4];
    for _ in 0..10 {
        // The store asks seeds in random order.
        let seeds = [&dead, &standalone, &without_slots, healthy].map(Server::url);
        let limiter = closed_limiter(&store(&seeds), LONG_DEADLINE);
        assert!(victim().is_decided_by_store(&limiter).await);
    }

    let proxy = Proxy::start(healthy.address()).await;
    proxy.refuse_connections();
    let store = store(&[dead.url(), proxy.url()]);
    let limiter = closed_limiter(&store, SHORT_DEADLINE);
    store.ping().await.expect_err("no seed answers");
    victim().wait_until_degraded(&limiter).await;
    proxy.forward();
    victim().wait_until_store_decides(&limiter).await;
    store.ping().await.unwrap();
}

#[test]
fn store_outlives_every_runtime_that_used_it() {
    let runtime = || Runtime::new().unwrap();
    let (last, limits) = (runtime(), Limits::from(QUOTA));
    let cluster = last.block_on(start());
    let server = last.block_on(Server::start());
    let single = RedisStore::new(&server.url()).unwrap();
    let (identity, urls) = (victim().identity, cluster.urls());
    let check = Check::new(&identity, &limits);
    for store in [single, store(&urls)] {
        for _ in 0..3 {
            let verdict = runtime().block_on(async { store.check(&check).wait().await });
            assert!(verdict.unwrap().is_allowed());
        }
    }
    // A runtime ends before its check has discovered the nodes: the check must fail and not hang.
    let store = store(&urls);
    let ended = Builder::new_current_thread().enable_all().build().unwrap();
    let pending = ended.block_on(async { store.check(&check) });
    drop(ended);
    last.block_on(pending.wait()).unwrap_err();
    last.block_on(victim().wait_until_store_decides(&closed_limiter(&store, SHORT_DEADLINE)));
}
