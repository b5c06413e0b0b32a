//! No check runs twice, and none runs after it was given up.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use outage::{LONG, SHORT, alice, check, counted, far, limiter, look, together, until_shared};
use servers::{Proxy, Server, Wait};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tollgate::{
    Check, FailureStrategy, Identity, Limiter, Limits, OwnedCheck, Quota, RedisStore, Store,
    StoreErrorKind,
};

/// What is left behind of a check that nobody waits for any more.
#[derive(Clone, Copy, Debug)]
enum GivenUp {
    /// It timed out, and the connection is there, or was replaced.
    TimedOut,
    /// It timed out, and the store with its connection is gone.
    StoreGone,
    /// Its future was dropped.
    Dropped,
    /// And so was the store.
    AllGone,
}

#[tokio::test]
async fn what_was_given_up_while_the_server_stood_still_does_not_run_when_it_goes_on() {
    use GivenUp::{AllGone, Dropped, StoreGone, TimedOut};
    let server = Server::start().await;
    let limits = together(1_000);
    for how in [TimedOut, StoreGone, Dropped, AllGone] {
        // So that nothing counts here that could be joined.
        let limiter = limiter(&server.url(), SHORT).failure_strategy(FailureStrategy::Closed);
        until_shared(&limiter).await;

        server.pause();
        let (alice, bob) = (alice(), Identity::user("bob"));
        let asked = (0..50).map(|index| {
            let who = if index % 2 == 0 { &alice } else { &bob };
            limiter.check(&Check::new(who, &limits)).into_future()
        });
        // On one thread: they all ask before any is sent, and share a call.
        let mut asked: Vec<_> = asked.collect();
        // And this is time for it to be sent.
        assert!(timeout(SHORT / 4, &mut asked[0]).await.is_err());
        match how {
            TimedOut | StoreGone => {
                for decision in join_all(asked).await {
                    assert!(decision.is_degraded() && !decision.is_allowed());
                }
            }
            Dropped | AllGone => drop(asked),
        }
        if matches!(how, StoreGone | AllGone) {
            drop(limiter);
        }
        // Until the last of them was too late for.
        sleep(SHORT).await;

        server.resume();
        assert_eq!(counted(&server, &limits).await, [0; 3], "{how:?}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
}

#[tokio::test]
async fn abandoned_reset_does_not_run_later() {
    let server = Server::start().await;
    let (limits, alice) = (together(10), alice());
    let one = Check::new(&alice, &limits);
    let limiter = limiter(&server.url(), SHORT);
    until_shared(&limiter).await;
    outage::ask(&server, &one.cost(2)).await;
    let before = counted(&server, &limits).await;
    server.pause();
    let error = limiter.reset(&one).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TimedOut);
    sleep(SHORT).await;
    server.resume();
    assert_eq!(counted(&server, &limits).await, before);
}

#[tokio::test]
async fn a_check_that_timed_out_after_it_ran_is_not_sent_again() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (limits, limiter) = (together(10), limiter(&proxy.url(), DEADLINE));
    assert!(!check(&limiter, &limits).await.is_degraded());
    server.reset_stats().await;

    // It reaches the server in time, and its reply does not come in time.
    proxy.delay(DEADLINE * 3 / 5);
    let decision = check(&limiter, &limits).await;
    assert!(decision.is_allowed() && decision.is_degraded());
    assert_eq!(counted(&server, &limits).await, [2; 3], "it ran");

    proxy.pass();
    sleep(DEADLINE).await;
    let calls = server.calls("evalsha").await;
    assert_eq!(calls, 3, "the check, a new connection, and the look");
    // The fallback has counted it too, and the two are one.
    let decision = check(&limiter, &limits).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 7);
    assert_eq!(counted(&server, &limits).await, [3; 3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn a_check_whose_reply_was_cut_in_half_is_not_sent_again() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (limits, limiter) = (together(10), limiter(&proxy.url(), LONG));
    assert!(!check(&limiter, &limits).await.is_degraded());
    server.reset_stats().await;
    for round in 1..=3 {
        proxy.halve();
        let decision = check(&limiter, &limits).await;
        assert!(decision.is_allowed() && decision.is_degraded());
        // Each round but the first begins with a new connection, which makes a call too.
        assert_eq!(server.calls("evalsha").await, 3 * round - 2);
        // What the fallback has counted, and the server too, is one.
        let decision = check(&limiter, &limits).await;
        assert!(decision.is_allowed() && !decision.is_degraded());
        assert_eq!(u64::from(decision.remaining()), 9 - 2 * round);
    }
    assert_eq!(counted(&server, &limits).await, [7; 3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// What became of the checks of a load.
#[derive(Default)]
struct Tally {
    admitted: AtomicU32,
    lost: AtomicU32,
}

impl Tally {
    fn get(&self) -> [u32; 2] {
        [&self.admitted, &self.lost].map(|count| count.load(Ordering::SeqCst))
    }
}

/// Checks of Alice's, one after another and some at once, until told to stop.
fn load(store: &RedisStore, limits: &Limits, tally: &Arc<Tally>) -> impl AsyncFnOnce() {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (store, tally, stop) = (store.clone(), tally.clone(), stop.clone());
        // Some are equal, and are decided as one.
        let check: OwnedCheck = Check::new(&alice(), limits)
            .cost(1 + task / 12)
            .into_owned();
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = store.check(&check.borrow()).wait().await;
                let cost = check.borrow().cost;
                match answer {
                    Ok(verdict) => {
                        assert!(verdict.is_allowed(), "the limit is far away");
                        tally.admitted.fetch_add(cost, Ordering::SeqCst);
                    }
                    Err(_) => {
                        tally.lost.fetch_add(cost, Ordering::SeqCst);
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            }
        });
    }
    async move || {
        stop.store(true, Ordering::Relaxed);
        tasks.join_all().await;
    }
}

/// A little while, another each time.
async fn a_while(milliseconds: u64, round: u64) {
    let part = round * 7_919 % 1_000;
    sleep(Duration::from_micros(milliseconds * (500 + part / 2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_whose_connection_is_cut_run_once_or_not_at_all() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (store, limits) = (RedisStore::new(&proxy.url()).unwrap(), far());
    store.ping().await.unwrap();
    let tally = Arc::new(Tally::default());
    let stop = load(&store, &limits, &tally);
    for round in 0..100 {
        let wait = Wait::until("checks are admitted again");
        let enough = tally.get()[0] + 20;
        while tally.get()[0] < enough {
            wait.on().await;
        }
        a_while(5, round).await;
        match round % 3 {
            0 => proxy.halve(),
            _ => proxy.cut(),
        }
    }
    stop().await;
    let [admitted, lost] = tally.get();
    let [counted] = counted(&server, &limits).await[..] else {
        panic!("there is one policy");
    };
    assert!(lost > 50, "hardly any was under way: {lost}");
    assert!(
        (admitted..=admitted + lost).contains(&counted),
        "{admitted} admitted and {lost} lost, but {counted} counted"
    );
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_that_meet_a_forgotten_script_run_once() {
    let server = Server::start().await;
    let (store, limits) = (RedisStore::new(&server.url()).unwrap(), far());
    store.ping().await.unwrap();
    let tally = Arc::new(Tally::default());
    let stop = load(&store, &limits, &tally);
    for round in 0..100 {
        a_while(5, round).await;
        server.command(&["SCRIPT", "FLUSH"]).await;
    }
    stop().await;
    let [admitted, lost] = tally.get();
    assert_eq!(lost, 0);
    assert_eq!(counted(&server, &limits).await, [admitted]);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_that_meet_a_restart_run_once_or_not_at_all() {
    let server = Server::start().await;
    let (store, limits) = (RedisStore::new(&server.url()).unwrap(), far());
    store.ping().await.unwrap();
    for round in 0..5 {
        let tally = Arc::new(Tally::default());
        let stop = load(&store, &limits, &tally);
        a_while(50, round).await;
        // Whatever the new server runs is answered, or lost, after this.
        server.kill();
        let before = tally.get();
        server.restart().await;
        let wait = Wait::until("checks are admitted again");
        let again = tally.get()[0];
        while tally.get()[0] < again + 100 {
            wait.on().await;
        }
        server.command(&["SCRIPT", "FLUSH"]).await;
        a_while(50, round).await;
        stop().await;
        let [admitted, lost] = tally.get();
        let [counted] = counted(&server, &limits).await[..] else {
            panic!("there is one policy");
        };
        let most = admitted + lost - before[0] - before[1];
        assert!(counted >= 100 && counted <= most, "{counted} of {most}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_dropped_half_way_costs_its_own_charge_at_most() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (limits, limiter) = (far(), limiter(&proxy.url(), LONG));
    until_shared(&limiter).await;
    proxy.delay(Duration::from_millis(1));
    let mut tasks = JoinSet::new();
    for task in 0..8_u64 {
        let (limiter, limits) = (limiter.clone(), limits.clone());
        tasks.spawn(async move {
            let [mut admitted, mut dropped] = [0, 0];
            for round in 0..200 {
                let alice = alice();
                let asked = limiter.check(&Check::new(&alice, &limits));
                let patience = Duration::from_micros((round * 37 + task * 611) % 5_000);
                // A patience of zero drops some before they are polled.
                if patience < Duration::from_micros(200) {
                    drop(asked);
                    dropped += 1;
                    continue;
                }
                match timeout(patience, asked.into_future()).await {
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
        [0, 1].map(|which| answers.iter().map(|answer| answer[which]).sum::<u32>());
    assert!(admitted > 0 && dropped > 0, "{admitted}, {dropped}");
    proxy.pass();
    assert!(!look(&limiter, &limits).await.is_degraded());
    let [counted] = counted(&server, &limits).await[..] else {
        panic!("there is one policy");
    };
    assert!(
        (admitted..=admitted + dropped).contains(&counted),
        "{admitted} admitted, {dropped} dropped, {counted} counted"
    );
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// A limiter is not needed by what it was asked.
#[tokio::test]
async fn a_check_may_outlive_its_limiter() {
    let server = Server::start().await;
    let limits = Limits::from(Quota::per_day(10));
    let limiter: Limiter = limiter(&server.url(), LONG);
    let alice = alice();
    let asked = limiter.check(&Check::new(&alice, &limits));
    drop(limiter);
    let decision = asked.await;
    assert!(decision.is_allowed() && !decision.is_degraded());
    assert_eq!(counted(&server, &limits).await, [1]);
}
