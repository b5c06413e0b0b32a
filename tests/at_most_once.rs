//! A check runs at most once, and never after its caller has given up: it is not retried once the
//! server may have received it.

#[path = "support/load.rs"]
mod load;
#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use load::Load;
use redis_limiter::{
    LONG_DEADLINE, SHORT_DEADLINE, alice, check, combined_limits, counted, high_limits, limiter,
    peek, wait_until_store_decides,
};
use servers::{Proxy, Server, Wait};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tollgate::store::OwnedCheck;
use tollgate::{
    Check, FailureStrategy, Identity, Limiter, Limits, Quota, RedisStore, Store, StoreErrorKind,
};

/// How a check is given up, and whether the store and its connection are dropped too.
#[derive(Clone, Copy, Debug)]
enum GivenUp {
    TimedOut,
    TimedOutAndStoreDropped,
    Dropped,
    DroppedAndStoreDropped,
}

#[tokio::test]
async fn abandoned_check_does_not_run_after_resume() {
    use GivenUp::{Dropped, DroppedAndStoreDropped, TimedOut, TimedOutAndStoreDropped};
    let server = Server::start().await;
    let limits = combined_limits(1_000);
    for given_up in [
        TimedOut,
        TimedOutAndStoreDropped,
        Dropped,
        DroppedAndStoreDropped,
    ] {
        // Fails closed, so that the fallback counts nothing that a later check would carry.
        let limiter =
            limiter(&server.url(), SHORT_DEADLINE).failure_strategy(FailureStrategy::Closed);
        wait_until_store_decides(&limiter).await;

        server.pause();
        let (alice, bob) = (alice(), Identity::user("bob"));
        let checks = (0..50).map(|index| {
            let user = if index % 2 == 0 { &alice } else { &bob };
            limiter.check(&Check::new(user, &limits)).into_future()
        });
        // On a single-threaded runtime all checks are queued before any is sent, so they are one
        // batch.
        let mut checks: Vec<_> = checks.collect();
        // Leaves time for the batch to be sent.
        assert!(timeout(SHORT_DEADLINE / 4, &mut checks[0]).await.is_err());
        match given_up {
            TimedOut | TimedOutAndStoreDropped => {
                for decision in join_all(checks).await {
                    assert!(decision.is_degraded() && !decision.is_allowed());
                }
            }
            Dropped | DroppedAndStoreDropped => drop(checks),
        }
        if matches!(given_up, TimedOutAndStoreDropped | DroppedAndStoreDropped) {
            drop(limiter);
        }
        // Until the deadline of the last check has passed.
        sleep(SHORT_DEADLINE).await;

        server.resume();
        assert_eq!(counted(&server, &limits).await, [0; 3], "{given_up:?}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
}

#[tokio::test]
async fn abandoned_reset_does_not_run_after_resume() {
    let server = Server::start().await;
    let (limits, alice) = (combined_limits(10), alice());
    let check = Check::new(&alice, &limits);
    let limiter = limiter(&server.url(), SHORT_DEADLINE);
    wait_until_store_decides(&limiter).await;
    redis_limiter::check_in_new_store(&server, &check.cost(2)).await;
    let before = counted(&server, &limits).await;
    server.pause();
    let error = limiter.reset(&check).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TimedOut);
    sleep(SHORT_DEADLINE).await;
    server.resume();
    assert_eq!(counted(&server, &limits).await, before);
}

#[tokio::test]
async fn check_that_timed_out_is_not_resent() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (limits, limiter) = (combined_limits(10), limiter(&proxy.url(), DEADLINE));
    assert!(!check(&limiter, &limits).await.is_degraded());
    server.reset_stats().await;

    // The check arrives in time, but its reply does not.
    proxy.delay(DEADLINE * 3 / 5);
    let decision = check(&limiter, &limits).await;
    assert!(decision.is_allowed() && decision.is_degraded());
    assert_eq!(counted(&server, &limits).await, [2; 3], "the check ran");

    proxy.forward();
    sleep(DEADLINE).await;
    let calls = server.calls("evalsha").await;
    assert_eq!(
        calls, 3,
        "the check, and in `counted` the new connection and the peek"
    );
    // The fallback has counted this check too. The next check carries that count, which the store
    // joins and does not add.
    let decision = check(&limiter, &limits).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 7);
    assert_eq!(counted(&server, &limits).await, [3; 3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn check_with_a_truncated_reply_is_not_resent() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (limits, limiter) = (combined_limits(10), limiter(&proxy.url(), LONG_DEADLINE));
    assert!(!check(&limiter, &limits).await.is_degraded());
    server.reset_stats().await;
    for round in 1..=3 {
        proxy.truncate_next_reply();
        let decision = check(&limiter, &limits).await;
        assert!(decision.is_allowed() && decision.is_degraded());
        // Each round but the first starts with a new connection, which makes a call too.
        assert_eq!(server.calls("evalsha").await, 3 * round - 2);
        // The check that both the fallback and the server have counted is charged once.
        let decision = check(&limiter, &limits).await;
        assert!(decision.is_allowed() && !decision.is_degraded());
        assert_eq!(u64::from(decision.remaining()), 9 - 2 * round);
    }
    assert_eq!(counted(&server, &limits).await, [7; 3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// The costs of the checks of a load, by result.
#[derive(Default)]
struct Tally {
    admitted: AtomicU32,
    failed: AtomicU32,
}

impl Tally {
    /// Returns the admitted and the failed costs.
    fn get(&self) -> [u32; 2] {
        [&self.admitted, &self.failed].map(|count| count.load(Ordering::SeqCst))
    }
}

/// Makes checks of `alice` in 16 tasks.
fn make_checks(store: &RedisStore, limits: &Limits, tally: &Arc<Tally>) -> Load<()> {
    let mut load = Load::new();
    for task in 0..16 {
        let (store, tally) = (store.clone(), tally.clone());
        // Checks of equal cost are coalesced.
        let check: OwnedCheck = Check::new(&alice(), limits)
            .cost(1 + task / 12)
            .into_owned();
        load.spawn(|running| async move {
            while running.get() {
                let answer = store.check(&check.borrow()).wait().await;
                let cost = check.borrow().cost;
                match answer {
                    Ok(verdict) => {
                        assert!(verdict.is_allowed(), "no test reaches the limit");
                        tally.admitted.fetch_add(cost, Ordering::SeqCst);
                    }
                    Err(_) => {
                        tally.failed.fetch_add(cost, Ordering::SeqCst);
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            }
        });
    }
    load
}

/// Sleeps for a pseudo-random time, between half of `milliseconds` and all of it.
async fn sleep_about(milliseconds: u64, round: u64) {
    let random = round * 7_919 % 1_000;
    sleep(Duration::from_micros(milliseconds * (500 + random / 2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_on_a_closed_connection_run_at_most_once() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (store, limits) = (RedisStore::new(&proxy.url()).unwrap(), high_limits());
    store.ping().await.unwrap();
    let tally = Arc::new(Tally::default());
    let load = make_checks(&store, &limits, &tally);
    for round in 0..100 {
        let wait = Wait::until("checks are admitted again");
        let enough = tally.get()[0] + 20;
        while tally.get()[0] < enough {
            wait.sleep().await;
        }
        sleep_about(5, round).await;
        match round % 3 {
            0 => proxy.truncate_next_reply(),
            _ => proxy.close_connections(),
        }
    }
    load.stop().await;
    let [admitted, failed] = tally.get();
    let [counted] = counted(&server, &limits).await[..] else {
        panic!("not one policy");
    };
    assert!(failed > 50, "too few checks were in flight: {failed}");
    assert!(
        (admitted..=admitted + failed).contains(&counted),
        "{admitted} admitted and {failed} failed, but {counted} counted"
    );
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_during_script_flushes_run_exactly_once() {
    let server = Server::start().await;
    let (store, limits) = (RedisStore::new(&server.url()).unwrap(), high_limits());
    store.ping().await.unwrap();
    let tally = Arc::new(Tally::default());
    let load = make_checks(&store, &limits, &tally);
    for round in 0..100 {
        sleep_about(5, round).await;
        server.command(&["SCRIPT", "FLUSH"]).await;
    }
    load.stop().await;
    let [admitted, failed] = tally.get();
    assert_eq!(failed, 0);
    assert_eq!(counted(&server, &limits).await, [admitted]);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_during_a_restart_run_at_most_once() {
    let server = Server::start().await;
    let (store, limits) = (RedisStore::new(&server.url()).unwrap(), high_limits());
    store.ping().await.unwrap();
    for round in 0..5 {
        let tally = Arc::new(Tally::default());
        let load = make_checks(&store, &limits, &tally);
        sleep_about(50, round).await;
        // The new server has no data, so only checks that end after this may be counted there.
        server.kill();
        let before = tally.get();
        server.restart().await;
        let wait = Wait::until("checks are admitted again");
        let admitted = tally.get()[0];
        while tally.get()[0] < admitted + 100 {
            wait.sleep().await;
        }
        server.command(&["SCRIPT", "FLUSH"]).await;
        sleep_about(50, round).await;
        load.stop().await;
        let [admitted, failed] = tally.get();
        let [counted] = counted(&server, &limits).await[..] else {
            panic!("not one policy");
        };
        let most = admitted + failed - before[0] - before[1];
        assert!(
            counted >= 100 && counted <= most,
            "{counted} of at most {most}"
        );
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_check_costs_at_most_its_own_charge() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (limits, limiter) = (high_limits(), limiter(&proxy.url(), LONG_DEADLINE));
    wait_until_store_decides(&limiter).await;
    proxy.delay(Duration::from_millis(1));
    let mut tasks = JoinSet::new();
    for task in 0..8_u64 {
        let (limiter, limits) = (limiter.clone(), limits.clone());
        tasks.spawn(async move {
            let [mut admitted, mut dropped] = [0, 0];
            for round in 0..200 {
                let alice = alice();
                let check = limiter.check(&Check::new(&alice, &limits));
                let patience = Duration::from_micros((round * 37 + task * 611) % 5_000);
                // Some checks are dropped before they are polled.
                if patience < Duration::from_micros(200) {
                    drop(check);
                    dropped += 1;
                    continue;
                }
                match timeout(patience, check.into_future()).await {
                    Ok(decision) => {
                        assert!(decision.is_allowed() && !decision.is_degraded());
                        admitted += 1;
                    }
                    Err(_) => dropped += 1,
                }
            }
            [admitted, dropped]
        });
    }
    let answers = tasks.join_all().await;
    let [admitted, dropped] =
        [0, 1].map(|result| answers.iter().map(|task| task[result]).sum::<u32>());
    assert!(
        admitted > 0 && dropped > 0,
        "{admitted} admitted, {dropped} dropped"
    );
    proxy.forward();
    assert!(!peek(&limiter, &limits).await.is_degraded());
    let [counted] = counted(&server, &limits).await[..] else {
        panic!("not one policy");
    };
    assert!(
        (admitted..=admitted + dropped).contains(&counted),
        "{admitted} admitted, {dropped} dropped, {counted} counted"
    );
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn check_may_outlive_its_limiter() {
    let server = Server::start().await;
    let limits = Limits::from(Quota::per_day(10));
    let limiter: Limiter = limiter(&server.url(), LONG_DEADLINE);
    let alice = alice();
    let check = limiter.check(&Check::new(&alice, &limits));
    drop(limiter);
    let decision = check.await;
    assert!(decision.is_allowed() && !decision.is_degraded());
    assert_eq!(counted(&server, &limits).await, [1]);
}
