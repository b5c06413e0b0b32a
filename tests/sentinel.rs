//! Whichever server the sentinels name has the counts, and a limit holds from one to the next.

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/spender.rs"]
mod support;

use std::error::Error;

use servers::{Sentinels, Server, Wait};
use tollgate::test_util::conformance;
use tollgate::{Limiter, RedisStore, StoreErrorKind};

use support::{NEVER_LATE, SOON, User, replicated, strict};

fn store(sentinels: &Sentinels) -> RedisStore {
    store_of(sentinels, sentinels.service_name())
}

fn store_of(sentinels: &Sentinels, service: &str) -> RedisStore {
    let urls = sentinels.urls();
    let store = RedisStore::sentinel(urls.iter().map(String::as_str), service);
    store.build().unwrap()
}

/// The same store behind a limiter that waits, and behind one that soon gives it up.
fn limiters(store: &RedisStore) -> [Limiter; 2] {
    [NEVER_LATE, SOON].map(|deadline| strict(store, deadline))
}

async fn until_a_replica(node: &Server) {
    let wait = Wait::until("the old primary is a replica");
    while !node.is_answering() || node.is_primary().await {
        wait.on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_conforms_behind_sentinels() {
    let sentinels = Sentinels::start().await;
    conformance::check(store(&sentinels)).await;
    assert_eq!(sentinels.nodes()[0].keys_without_ttl().await, [""; 0]);

    let unknown = store_of(&sentinels, "unknown");
    let error = unknown.ping().await.expect_err("there is none");
    assert_eq!(error.kind(), StoreErrorKind::Rejected);
    let reason = error.source().expect("a reason").to_string();
    assert_eq!(reason, "the sentinels know no `unknown`");
}

#[tokio::test]
async fn a_primary_that_dies_is_followed() {
    let sentinels = Sentinels::start().await;
    let [patient, limiter] = limiters(&store(&sentinels));
    let mut alice = User::new("alice");
    alice.spend(&patient, 4).await;
    replicated(&sentinels.nodes()[0], "").await;

    sentinels.nodes()[0].kill();
    alice.until_degraded(&limiter).await;
    sentinels.new_primary(0).await;
    alice.until_decided(&limiter).await;
    alice.spend_the_rest(&patient).await;
}

#[tokio::test]
async fn a_primary_that_stands_still_is_followed_with_a_sentinel_dead() {
    let sentinels = Sentinels::start().await;
    sentinels.sentinels()[0].kill();
    let [patient, limiter] = limiters(&store(&sentinels));
    let mut alice = User::new("alice");
    alice.spend(&patient, 4).await;
    let old = &sentinels.nodes()[0];
    replicated(old, "").await;

    old.pause();
    alice.until_degraded(&limiter).await;
    sentinels.new_primary(0).await;
    alice.until_decided(&limiter).await;
    alice.spend(&patient, 2).await;
    old.resume();
    until_a_replica(old).await;
    alice.spend_the_rest(&patient).await;
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_left() {
    let sentinels = Sentinels::start().await;
    // It answers nothing, but still accepts connections.
    sentinels.sentinels()[0].pause();
    let store = store(&sentinels);
    store.ping().await.unwrap();
    let [patient, limiter] = limiters(&store);
    let [old, new] = [&sentinels.nodes()[0], &sentinels.nodes()[1]];
    let mut alice = User::new("alice");
    alice.spend(&patient, 2).await;
    replicated(old, "").await;

    // The sentinels cut its connections when they have made it a replica.
    assert_eq!(sentinels.failover().await, 1);
    until_a_replica(old).await;
    alice.until_decided(&limiter).await;
    alice.spend(&patient, 2).await;
    let wait = Wait::until("the old primary has caught up");
    let caught_up = "master_link_status:up";
    while !old
        .ask::<String>(&["INFO", "replication"])
        .await
        .contains(caught_up)
    {
        wait.on().await;
    }
    replicated(new, "").await;

    // Somebody does it by hand, who cuts nothing. The connection leads to a replica, and so do the
    // sentinels until they are told.
    old.command(&["REPLICAOF", "NO", "ONE"]).await;
    let port = old.port().to_string();
    new.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    assert!(alice.ask(&patient).await.is_degraded());
    for sentinel in &sentinels.sentinels()[1..] {
        let service = sentinels.service_name();
        sentinel.command(&["SENTINEL", "REMOVE", service]).await;
        let monitor = ["SENTINEL", "MONITOR", service, "127.0.0.1", &port, "2"];
        sentinel.command(&monitor).await;
    }
    alice.until_decided(&limiter).await;
    alice.spend_the_rest(&patient).await;
}

#[tokio::test]
async fn sentinels_may_come_later_than_the_application() {
    let sentinels = Sentinels::start().await;
    for sentinel in sentinels.sentinels() {
        sentinel.kill();
    }
    let store = store(&sentinels);
    let [patient, limiter] = limiters(&store);
    let error = store.ping().await.expect_err("nobody says where it is");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let mut alice = User::new("alice");
    alice.until_degraded(&limiter).await;
    sentinels.sentinels()[2].restart().await;
    alice.until_decided(&limiter).await;
    alice.spend_the_rest(&patient).await;
}
