//! The store uses the primary that the sentinels name, and follows them to a new one without losing
//! counts.

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod support;

use std::error::Error;
use std::time::Duration;

use servers::{Sentinels, Server, Wait};
use tokio::time::sleep;
use tollgate::store::conformance;
use tollgate::{Check, Identity, Limiter, Limits, Quota, RedisStore, StoreErrorKind};

use support::{DAY, LONG_DEADLINE, SHORT_DEADLINE, User, closed_limiter, wait_for_replica};

fn store(sentinels: &Sentinels) -> RedisStore {
    store_of(sentinels, sentinels.service_name())
}

fn store_of(sentinels: &Sentinels, service: &str) -> RedisStore {
    let urls = sentinels.urls();
    let store = RedisStore::sentinel(urls.iter().map(String::as_str), service);
    store.build().unwrap()
}

/// Returns two limiters of one store, with a long and a short deadline.
fn limiters(store: &RedisStore) -> [Limiter; 2] {
    [LONG_DEADLINE, SHORT_DEADLINE].map(|deadline| closed_limiter(store, deadline))
}

/// Waits until this node is a replica in sync with its primary.
async fn wait_until_replicating(node: &Server) {
    let wait = Wait::until("the old primary replicates the new one");
    let is_in_sync = |lines: String| lines.contains("master_link_status:up");
    // The command may fail, as the sentinels may close this connection too.
    let information = || node.try_query(&["INFO", "replication"]);
    while !information().await.is_ok_and(is_in_sync) {
        wait.sleep().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn store_conforms_behind_sentinels() {
    let sentinels = Sentinels::start().await;
    conformance::check(store(&sentinels)).await;
    assert_eq!(sentinels.nodes()[0].keys_without_ttl().await, [""; 0]);

    // The reply of a sentinel takes precedence over the failure of another.
    sentinels.sentinels()[2].kill();
    let unknown = store_of(&sentinels, "unknown");
    let error = unknown.ping().await.expect_err("the service is unknown");
    assert_eq!(error.kind(), StoreErrorKind::Rejected);
    let reason = error.source().expect("a cause").to_string();
    assert!(
        reason.ends_with(": the sentinel monitors no primary named `unknown`"),
        "{reason}"
    );
}

#[tokio::test]
async fn killed_primary_is_replaced_without_losing_counts() {
    let sentinels = Sentinels::start().await;
    let [patient, limiter] = limiters(&store(&sentinels));
    let mut alice = User::new("alice");
    alice.spend(&patient, 4).await;
    wait_for_replica(&sentinels.nodes()[0], "").await;

    sentinels.nodes()[0].kill();
    alice.wait_until_degraded(&limiter).await;
    sentinels.new_primary(0).await;
    alice.wait_until_store_decides(&limiter).await;
    alice.spend_remaining(&patient).await;
}

/// The slots of open permits move to the new primary, and no slot stays taken without a permit.
#[tokio::test]
async fn slots_survive_a_failover_as_long_as_permits() {
    const TTL: Duration = Duration::from_secs(1);
    let sentinels = Sentinels::start().await;
    let [patient, limiter] = limiters(&store(&sentinels));
    let (alice, limits) = (
        Identity::user("alice"),
        Limits::from(Quota::concurrent(5).reserve_for(TTL)),
    );
    let check = Check::new(&alice, &limits);
    let acquire = async || patient.acquire(&check).await.expect("a free slot");
    let held = [acquire().await, acquire().await];
    let ended = [acquire().await, acquire().await];
    wait_for_replica(&sentinels.nodes()[0], "").await;

    sentinels.nodes()[0].kill();
    drop(ended);
    let user = User::with_limits("alice", limits.clone());
    user.wait_until_degraded(&limiter).await;
    sentinels.new_primary(0).await;
    user.wait_until_store_decides(&patient).await;
    // The slots of the old primary lapse, or have done so.
    sleep(2 * TTL).await;
    let wait_until_free = async |slots| {
        let wait = Wait::until(format!("{slots} slots are free"));
        while patient.peek(&check).await.remaining() != slots {
            wait.sleep().await;
        }
    };
    wait_until_free(3).await;
    drop(held);
    wait_until_free(5).await;
}

#[tokio::test]
async fn paused_primary_is_replaced_with_a_sentinel_down() {
    let sentinels = Sentinels::start().await;
    sentinels.sentinels()[0].kill();
    let [patient, limiter] = limiters(&store(&sentinels));
    let mut alice = User::new("alice");
    alice.spend(&patient, 4).await;
    let old = &sentinels.nodes()[0];
    wait_for_replica(old, "").await;

    old.pause();
    alice.wait_until_degraded(&limiter).await;
    sentinels.new_primary(0).await;
    alice.wait_until_store_decides(&limiter).await;
    alice.spend(&patient, 2).await;
    old.resume();
    wait_until_replicating(old).await;
    alice.spend_remaining(&patient).await;
}

#[tokio::test]
async fn demoted_primary_is_not_used() {
    let sentinels = Sentinels::start().await;
    // A paused sentinel accepts connections and does not answer.
    sentinels.sentinels()[0].pause();
    let store = store(&sentinels);
    store.ping().await.unwrap();
    let [patient, limiter] = limiters(&store);
    let [old, new] = [&sentinels.nodes()[0], &sentinels.nodes()[1]];
    let mut alice = User::new("alice");
    alice.spend(&patient, 2).await;
    wait_for_replica(old, "").await;

    // The sentinels close the connections of the old primary when they make it a replica. That may
    // be seconds after the failover, and what is counted in between is lost.
    assert_eq!(sentinels.failover().await, 1);
    wait_until_replicating(old).await;
    alice.wait_until_store_decides(&limiter).await;
    alice.spend(&patient, 2).await;
    wait_for_replica(new, "").await;

    // Swap the roles by hand, without closing connections: both the open connection and the address
    // from the sentinels lead to a replica. The sentinels must forget the service first, or they
    // would interfere.
    let answering = &sentinels.sentinels()[1..];
    let service = sentinels.service_name();
    forget(answering, service).await;
    let [old_port, new_port] = [old, new].map(|node| node.port().to_string());
    old.command(&["REPLICAOF", "NO", "ONE"]).await;
    new.command(&["REPLICAOF", "127.0.0.1", &old_port]).await;
    monitor(answering, service, &new_port).await;
    for _ in 0..3 {
        assert!(alice.check(&patient).await.is_degraded());
    }
    forget(answering, service).await;
    monitor(answering, service, &old_port).await;
    alice.wait_until_store_decides(&limiter).await;
    alice.wait_until_store_decides(&patient).await;
    alice.spend_remaining(&patient).await;
}

#[tokio::test]
async fn replaced_primary_that_still_answers_is_left() {
    let sentinels = Sentinels::start().await;
    let other = Server::start().await;
    let limiter = closed_limiter(&store(&sentinels), LONG_DEADLINE);
    let mut alice = User::new("alice");
    alice.spend(&limiter, 1).await;

    let (all, service) = (sentinels.sentinels(), sentinels.service_name());
    forget(all, service).await;
    monitor(all, service, &other.port().to_string()).await;
    let wait = Wait::until("the new server is used");
    while other.calls("evalsha").await == 0 {
        alice.check(&limiter).await;
        wait.sleep().await;
    }
    assert!(
        sentinels.nodes()[0].is_primary().await,
        "the old server is still a primary"
    );
}

/// The window is the same on both servers, but the new one does not know of the charge.
#[tokio::test]
async fn refund_after_a_failover_changes_nothing() {
    let sentinels = Sentinels::start().await;
    let other = Server::start().await;
    let urls = sentinels.urls();
    // The connection is replaced before the sentinels are asked whether its server is the primary.
    let store = RedisStore::sentinel(urls.iter().map(String::as_str), sentinels.service_name())
        .max_connection_age(Duration::from_secs(1));
    let limiter = closed_limiter(&store.build().unwrap(), LONG_DEADLINE);
    let direct = closed_limiter(&RedisStore::new(&other.url()).unwrap(), LONG_DEADLINE);
    let (alice, limits) = (
        Identity::user("alice"),
        Limits::from(Quota::fixed_window(10, 3_650 * DAY)),
    );
    let check = Check::new(&alice, &limits);
    let permit = limiter.acquire(&check.cost(4)).await.expect("10 are left");
    assert!(direct.check(&check.cost(5)).await.is_allowed());

    let (all, service) = (sentinels.sentinels(), sentinels.service_name());
    forget(all, service).await;
    monitor(all, service, &other.port().to_string()).await;
    let wait = Wait::until("the new server is used");
    while limiter.peek(&check).await.remaining() != 5 {
        wait.sleep().await;
    }
    permit.refund();
    limiter.flush().await;
    assert_eq!(direct.peek(&check).await.remaining(), 5);
}

/// Removes the service from these sentinels. [`monitor`] must not run before all have forgotten it,
/// or they would learn the old address from each other.
async fn forget(sentinels: &[Server], service: &str) {
    for sentinel in sentinels {
        sentinel.command(&["SENTINEL", "REMOVE", service]).await;
    }
}

/// Makes these sentinels monitor a server as the primary of the service.
async fn monitor(sentinels: &[Server], service: &str, port: &str) {
    for sentinel in sentinels {
        let words = ["SENTINEL", "MONITOR", service, "127.0.0.1", port, "2"];
        sentinel.command(&words).await;
    }
}

#[tokio::test]
async fn sentinels_may_start_after_the_application() {
    let sentinels = Sentinels::start().await;
    for sentinel in sentinels.sentinels() {
        sentinel.kill();
    }
    let store = store(&sentinels);
    let [patient, limiter] = limiters(&store);
    let error = store.ping().await.expect_err("all sentinels are down");
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let mut alice = User::new("alice");
    alice.wait_until_degraded(&limiter).await;
    sentinels.sentinels()[2].restart().await;
    alice.wait_until_store_decides(&limiter).await;
    alice.spend_remaining(&patient).await;
}
