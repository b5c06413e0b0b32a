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

/// Waits until this is a replica that has what its primary has.
async fn until_it_follows(node: &Server) {
    let wait = Wait::until("the old primary follows the new one");
    let follows = |lines: String| lines.contains("master_link_status:up");
    // The sentinels may cut this connection too.
    let information = || node.try_ask(&["INFO", "replication"]);
    while !information().await.is_ok_and(follows) {
        wait.on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_conforms_behind_sentinels() {
    let sentinels = Sentinels::start().await;
    conformance::check(store(&sentinels)).await;
    assert_eq!(sentinels.nodes()[0].keys_without_ttl().await, [""; 0]);

    // What a sentinel says is worth more than that another one says nothing.
    sentinels.sentinels()[2].kill();
    let unknown = store_of(&sentinels, "unknown");
    let error = unknown.ping().await.expect_err("there is none");
    assert_eq!(error.kind(), StoreErrorKind::Rejected);
    let reason = error.source().expect("a reason").to_string();
    assert!(
        reason.ends_with(": the sentinel monitors no primary named `unknown`"),
        "{reason}"
    );
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
    until_it_follows(old).await;
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

    // The sentinels cut its connections when they make it a replica. That may be seconds after the
    // other has become the primary, and what is counted in between is lost.
    assert_eq!(sentinels.failover().await, 1);
    until_it_follows(old).await;
    alice.until_decided(&limiter).await;
    alice.spend(&patient, 2).await;
    replicated(new, "").await;

    // Somebody swaps them by hand, and cuts nothing: the connection leads to a replica, and so
    // does what the sentinels say. They know nothing of either meanwhile, or they would interfere.
    let answering = &sentinels.sentinels()[1..];
    let service = sentinels.service_name();
    forget(answering, service).await;
    let [old_port, new_port] = [old, new].map(|node| node.port().to_string());
    old.command(&["REPLICAOF", "NO", "ONE"]).await;
    new.command(&["REPLICAOF", "127.0.0.1", &old_port]).await;
    monitor(answering, service, &new_port).await;
    for _ in 0..3 {
        assert!(alice.ask(&patient).await.is_degraded());
    }
    forget(answering, service).await;
    monitor(answering, service, &old_port).await;
    alice.until_decided(&limiter).await;
    alice.until_decided(&patient).await;
    alice.spend_the_rest(&patient).await;
}

#[tokio::test]
async fn a_primary_that_was_replaced_and_was_not_told_is_left() {
    let sentinels = Sentinels::start().await;
    let other = Server::start().await;
    let limiter = strict(&store(&sentinels), NEVER_LATE);
    let mut alice = User::new("alice");
    alice.spend(&limiter, 1).await;

    let (all, service) = (sentinels.sentinels(), sentinels.service_name());
    forget(all, service).await;
    monitor(all, service, &other.port().to_string()).await;
    let wait = Wait::until("the other one is asked");
    while other.calls("evalsha").await == 0 {
        alice.ask(&limiter).await;
        wait.on().await;
    }
    assert!(sentinels.nodes()[0].is_primary().await, "it was never told");
}

/// All of them, before one is told anything new, or it would hear the old from another.
async fn forget(sentinels: &[Server], service: &str) {
    for sentinel in sentinels {
        sentinel.command(&["SENTINEL", "REMOVE", service]).await;
    }
}

async fn monitor(sentinels: &[Server], service: &str, port: &str) {
    for sentinel in sentinels {
        let words = ["SENTINEL", "MONITOR", service, "127.0.0.1", port, "2"];
        sentinel.command(&words).await;
    }
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
