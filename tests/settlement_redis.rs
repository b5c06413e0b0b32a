//! Reservations and slots in Redis: exact over several stores, released exactly once, and never lost
//! for longer than twice their time.

#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod support;

use std::mem;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use redis_limiter::wait_until_breaker_opens;
use servers::{Proxy, Server, Wait};
use tokio::runtime::Runtime;
use tokio::time::sleep;
use tollgate::{Check, FailureStrategy, Identity, Limiter, Limits, Permit, Quota, RedisStore};

use support::{DAY, LONG_DEADLINE, closed_limiter};

const SECOND: Duration = Duration::from_secs(1);

fn alice() -> Identity {
    Identity::user("alice")
}

/// Returns limiters with a store and connections each, as several processes have.
fn limiters<const N: usize>(server: &Server) -> [Limiter; N] {
    [(); N].map(|()| {
        let store = RedisStore::new(&server.url()).unwrap();
        closed_limiter(&store, LONG_DEADLINE)
    })
}

async fn acquire(limiter: &Limiter, limits: &Limits, cost: u32) -> Option<Permit> {
    let alice = alice();
    let check = Check::new(&alice, limits).cost(cost);
    limiter.acquire(&check).await.ok()
}

async fn remaining(limiter: &Limiter, limits: &Limits) -> u32 {
    let alice = alice();
    limiter.peek(&Check::new(&alice, limits)).await.remaining()
}

#[tokio::test]
async fn stores_share_the_slots() {
    let server = Server::start().await;
    let limiters: [Limiter; 3] = limiters(&server);
    let limits = Limits::from(Quota::concurrent(5));
    for _ in 0..20 {
        let attempts = (0..30).map(|number| acquire(&limiters[number % 3], &limits, 1));
        let permits: Vec<Permit> = join_all(attempts).await.into_iter().flatten().collect();
        assert_eq!(permits.len(), 5);
        drop(permits);
        for limiter in &limiters {
            limiter.flush().await;
        }
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn settled_cost_is_exact() {
    let server = Server::start().await;
    let [limiter] = limiters(&server);
    for quota in [
        Quota::token_bucket(100, 3_650 * DAY).reserve_for(SECOND * 30),
        Quota::sliding_window(100, 3_650 * DAY),
        Quota::fixed_window(100, 3_650 * DAY),
    ] {
        let limits = Limits::from(quota);
        let permits = [(); 4].map(|()| acquire(&limiter, &limits, 20));
        let permits = join_all(permits).await;
        for (permit, used) in permits.into_iter().zip([0, 5, 20, 30]) {
            permit.expect("100 are left").settle(used);
        }
        limiter.flush().await;
        assert_eq!(remaining(&limiter, &limits).await, 45, "{quota}");
    }
}

#[tokio::test]
async fn denied_client_is_served_after_a_settlement() {
    let server = Server::start().await;
    let [limiter] = limiters(&server);
    let limits = Limits::from(Quota::fixed_window(1, 3_650 * DAY));
    let permit = acquire(&limiter, &limits, 1).await.expect("one is left");
    // The store remembers the denial.
    assert!(acquire(&limiter, &limits, 1).await.is_none());
    permit.refund();
    limiter.flush().await;
    assert!(acquire(&limiter, &limits, 1).await.is_some());
}

#[tokio::test]
async fn reset_voids_open_charges() {
    let server = Server::start().await;
    let [limiter] = limiters(&server);
    let alice = alice();
    for quota in [Quota::fixed_window(5, 3_650 * DAY), Quota::concurrent(5)] {
        let limits = Limits::from(quota);
        let before = acquire(&limiter, &limits, 3).await.expect("5 are left");
        limiter.reset(&Check::new(&alice, &limits)).await.unwrap();
        let after = acquire(&limiter, &limits, 4).await.expect("5 are left");
        before.refund();
        limiter.flush().await;
        assert_eq!(remaining(&limiter, &limits).await, 1, "{quota}");
        drop(after);
        limiter.flush().await;
    }
}

#[tokio::test]
async fn settlement_behind_a_reset_charges_nothing() {
    let server = Server::start().await;
    let [limiter] = limiters(&server);
    let alice = alice();
    let limits = Limits::from(Quota::token_bucket(5, 3_650 * DAY).reserve_for(SECOND * 30));
    let permit = acquire(&limiter, &limits, 3).await.expect("5 are left");
    let check = Check::new(&alice, &limits);
    let mut reset = Box::pin(limiter.reset(&check));
    assert!(
        (&mut reset).now_or_never().is_none(),
        "the answer is pending"
    );
    permit.settle(3);
    reset.await.unwrap();
    limiter.flush().await;
    assert_eq!(remaining(&limiter, &limits).await, 5);
}

#[tokio::test]
async fn open_permit_is_renewed() {
    let server = Server::start().await;
    let [holder, other] = limiters(&server);
    let limits = Limits::from(Quota::concurrent(1).reserve_for(SECOND));
    let permit = acquire(&holder, &limits, 1).await.expect("a free slot");
    for _ in 0..35 {
        sleep(SECOND / 10).await;
        assert!(acquire(&other, &limits, 1).await.is_none());
    }
    drop(permit);
    holder.flush().await;
    assert!(acquire(&other, &limits, 1).await.is_some());
}

/// The runtime of the permit's limiter ends, as in a process that is killed.
#[test]
fn slot_of_a_killed_process_lapses() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Server::start());
    let limits = Limits::from(Quota::concurrent(1).reserve_for(SECOND));
    let killed = Runtime::new().unwrap();
    killed.block_on(async {
        let [limiter] = limiters(&server);
        mem::forget(acquire(&limiter, &limits, 1).await.expect("a free slot"));
    });
    killed.shutdown_background();
    runtime.block_on(async {
        let [limiter] = limiters(&server);
        assert!(acquire(&limiter, &limits, 1).await.is_none());
        let wait = Wait::until("the slot has lapsed");
        while acquire(&limiter, &limits, 1).await.is_none() {
            wait.sleep().await;
        }
    });
}

/// Slots would otherwise stay taken for at least 30 seconds, which is longer than the test waits.
#[tokio::test]
async fn late_answers_free_their_slots() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    let limiter = Limiter::builder(store)
        .deadline(Duration::from_millis(20))
        .failure_strategy(FailureStrategy::Closed)
        .build();
    let limits = Limits::from(Quota::concurrent(50));
    proxy.delay(Duration::from_millis(100));
    let late = join_all((0..20).map(|_| acquire(&limiter, &limits, 1))).await;
    assert!(late.iter().all(Option::is_none));

    let [direct] = limiters(&server);
    let wait = Wait::until("no slot is taken");
    while remaining(&direct, &limits).await < 50 {
        wait.sleep().await;
    }
}

#[tokio::test]
async fn dropped_futures_free_their_slots() {
    let server = Server::start().await;
    let [limiter] = limiters(&server);
    let limits = Limits::from(Quota::concurrent(20));
    for _ in 0..20 {
        let alice = alice();
        let check = Check::new(&alice, &limits);
        let futures = (0..10).map(|_| limiter.acquire(&check));
        let mut futures: Vec<_> = futures.map(Box::pin).collect();
        for future in &mut futures {
            assert!(future.now_or_never().is_none(), "the answer is pending");
        }
    }
    let wait = Wait::until("no slot is taken");
    while remaining(&limiter, &limits).await < 20 {
        wait.sleep().await;
    }
}

#[tokio::test]
async fn outage_begins_and_ends_with_the_open_slots() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let limiter = Limiter::builder(store).deadline(LONG_DEADLINE).build();
    let limits = Limits::from(Quota::concurrent(3).reserve_for(SECOND));
    let before = [(); 2].map(|()| acquire(&limiter, &limits, 1));
    let before = join_all(before).await;
    assert!(before.iter().all(Option::is_some));

    server.kill();
    wait_until_breaker_opens(&limiter).await;
    let during = acquire(&limiter, &limits, 1).await;
    assert!(during.is_some(), "one slot is free");
    assert!(acquire(&limiter, &limits, 1).await.is_none());

    // The server comes back without data. The limiter charges what is still open.
    server.restart().await;
    let [other] = limiters(&server);
    let wait = Wait::until("the open slots are in the store");
    while remaining(&other, &limits).await > 0 {
        wait.sleep().await;
    }
    drop((before, during));
    let wait = Wait::until("no slot is taken");
    while remaining(&other, &limits).await < 3 {
        wait.sleep().await;
    }
}

/// If the release or the refund were sent twice, the server would give back the charge of `other` too.
#[tokio::test]
async fn settlement_with_a_truncated_reply_is_not_resent() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    let limiter = closed_limiter(&store, LONG_DEADLINE);
    let [direct] = limiters(&server);
    for quota in [
        Quota::concurrent(10),
        Quota::fixed_window(10, 3_650 * DAY),
        Quota::token_bucket(10, 3_650 * DAY).reserve_for(SECOND * 30),
    ] {
        let limits = Limits::from(quota);
        let permit = acquire(&limiter, &limits, 4).await.expect("10 are left");
        let other = acquire(&limiter, &limits, 4).await.expect("6 are left");
        assert_eq!(remaining(&direct, &limits).await, 2, "{quota}");
        proxy.truncate_next_reply();
        permit.refund();
        limiter.flush().await;
        // The check opens a new connection, over which a settlement could be sent again.
        assert!(acquire(&limiter, &limits, 11).await.is_none());
        assert_eq!(remaining(&direct, &limits).await, 6, "{quota}");
        // The connection of this charge is lost, and the server may have lost the charge with it.
        other.refund();
        limiter.flush().await;
        assert_eq!(remaining(&direct, &limits).await, 6, "{quota}");
    }
}

#[tokio::test]
async fn slots_with_a_truncated_reply_lapse() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    let limiter = closed_limiter(&store, LONG_DEADLINE);
    let limits = Limits::from(Quota::concurrent(20).reserve_for(SECOND));
    server.reset_stats().await;
    proxy.truncate_next_reply();
    let attempts = join_all((0..20).map(|_| acquire(&limiter, &limits, 1))).await;
    assert!(attempts.iter().all(Option::is_none));
    let calls = server.calls("evalsha").await;
    assert_eq!(calls, 1, "one call has taken all slots");
    let wait = Wait::until("no slot is taken");
    while remaining(&limiter, &limits).await < 20 {
        wait.sleep().await;
    }
}
