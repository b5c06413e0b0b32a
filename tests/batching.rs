//! Checks that are made at the same time share round trips, equal checks are coalesced, and checks
//! that must be denied are denied from memory.

#[path = "support/redis/mod.rs"]
mod servers;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::poll;
use servers::{Proxy, Server, Wait};
use std::future::IntoFuture;
use tollgate::store::{Outcome, OwnedCheck, Verdict};
use tollgate::{Check, Identity, Limiter, Limits, Quota, RedisStore, Store, StoreErrorKind};

const DAY: Duration = Duration::from_secs(86_400);

fn store(server: &Server) -> RedisStore {
    RedisStore::new(&server.url()).unwrap()
}

async fn check(store: &RedisStore, check: &Check<'_>) -> Verdict {
    store.check(check).wait().await.unwrap()
}

/// Makes `times` equal checks at once, and returns how many were admitted.
async fn count_admitted(store: &RedisStore, check: &Check<'_>, times: usize) -> usize {
    let answers = (0..times).map(|_| store.check(check).wait());
    let answers = join_all(answers).await;
    let allowed = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().is_allowed());
    allowed.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_checks_take_few_round_trips() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(10));
    server.reset_stats().await;

    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..1_000 {
        let identity = Identity::user(&index.to_string());
        let (store, owned) = (store.clone(), Check::new(&identity, &limits).into_owned());
        tasks.spawn(async move { check(&store, &owned.borrow()).await.is_allowed() });
    }
    assert!(tasks.join_all().await.into_iter().all(|allowed| allowed));
    let calls = server.calls("evalsha").await;
    assert!(calls <= 200, "1,000 checks took {calls} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn concurrent_callers_are_served_fairly() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(10_000_000));
    let counts: Arc<[AtomicU32]> = (0..512).map(|_| AtomicU32::new(0)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..counts.len() {
        let (store, limits, counts) = (store.clone(), limits.clone(), counts.clone());
        tasks.spawn(async move {
            let alice = Identity::user("alice");
            loop {
                check(&store, &Check::new(&alice, &limits)).await;
                // The load ends when one task has had 200 answers.
                if counts[index].fetch_add(1, Ordering::Relaxed) == 200 {
                    break;
                }
            }
        });
    }
    tasks.join_next().await.unwrap().unwrap();
    let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
    let least = counts.min().unwrap();
    assert!(least >= 100, "a task had only {least} answers");
}

#[tokio::test]
async fn equal_checks_are_coalesced_and_admit_the_limit() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    for (cost, expected) in [(1, 100), (7, 14), (100, 1), (101, 0), (0, 1_000)] {
        for quota in [
            Quota::per_day(100),
            Quota::sliding_window(100, DAY),
            Quota::fixed_window(100, DAY),
        ] {
            let (identity, limits) = (Identity::user(&cost.to_string()), Limits::from(quota));
            let equal = Check::new(&identity, &limits).cost(cost);
            server.reset_stats().await;
            assert_eq!(
                count_admitted(&store, &equal, 1_000).await,
                expected,
                "{quota} cost {cost}"
            );
            let calls = server.calls("evalsha").await;
            assert!(calls <= 3, "{quota}: 1,000 equal checks took {calls} calls");
        }
    }
}

#[tokio::test]
async fn checks_of_one_batch_see_earlier_charges() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(10)));
    let costs = [4, 4, 4, 2, 1];
    let answers = costs.map(|cost| store.check(&Check::new(&alice, &limits).cost(cost)).wait());
    let answers = join_all(answers).await;
    let allowed = answers
        .into_iter()
        .map(|answer| answer.unwrap().is_allowed());
    assert_eq!(
        allowed.collect::<Vec<_>>(),
        [true, true, false, true, false]
    );
}

#[tokio::test]
async fn charges_of_dropped_checks_admit_coalesced_ones() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(3)));
    let mut waiting: Vec<_> = (0..5)
        .map(|_| store.check(&Check::new(&alice, &limits)).wait())
        .map(Box::pin)
        .collect();
    // All five share a call, which is in flight when two are dropped.
    server.pause();
    for waiter in &mut waiting {
        assert!(poll!(waiter).is_pending());
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    waiting.drain(..2);
    server.resume();
    for answer in join_all(waiting).await {
        assert!(answer.unwrap().is_allowed());
    }
}

#[tokio::test]
async fn million_denied_checks_need_few_calls() {
    let server = Server::start().await;
    let store = store(&server);
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let denied = Check::new(&alice, &limits);
    check(&store, &denied).await;
    server.reset_stats().await;
    let began = Instant::now();
    for _ in 0..1_000_000 {
        assert!(!check(&store, &denied).await.is_allowed());
    }
    let (calls, seconds) = (server.calls("evalsha").await, began.elapsed().as_secs());
    assert!(calls <= seconds + 2, "{calls} calls in {seconds} s");
}

#[tokio::test]
async fn denial_is_cached_for_equal_or_higher_cost() {
    let server = Server::start().await;
    let store = store(&server);
    let [alice, bob] = ["alice", "bob"].map(Identity::user);
    let [limits, other_limits] = [10, 20].map(|limit| Limits::from(Quota::per_day(limit)));
    let denied = Check::new(&alice, &limits);
    check(&store, &denied.cost(6)).await;
    let ready = |check: Check<'_>| matches!(store.check(&check), Outcome::Ready(_));
    assert!(!check(&store, &denied.cost(5)).await.is_allowed());

    assert!(ready(denied.cost(5)) && ready(denied.cost(9)));
    assert!(!ready(denied.cost(4)) && !ready(denied.cost(0)));
    assert!(!ready(Check::new(&alice, &other_limits).cost(5)));
    assert!(!ready(Check::new(&bob, &limits).cost(5)));
}

#[tokio::test]
async fn reset_by_this_store_drops_the_cached_denial() {
    let server = Server::start().await;
    let store = store(&server);
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let check = Check::new(&alice, &limits);
    assert_eq!(count_admitted(&store, &check, 2).await, 1);
    store.reset(&check).wait().await.unwrap();
    assert_eq!(count_admitted(&store, &check, 2).await, 1, "after a reset");
}

#[tokio::test]
async fn reset_by_another_process_is_seen_soon() {
    let server = Server::start().await;
    let [store, other_store] = [store(&server), store(&server)];
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let denied = Check::new(&alice, &limits);
    assert_eq!(count_admitted(&store, &denied, 2).await, 1);
    other_store.reset(&denied).wait().await.unwrap();
    let wait = Wait::until("the denial is forgotten");
    while !check(&store, &denied).await.is_allowed() {
        wait.sleep().await;
    }
}

/// The checks are queued while the server is paused. The queue has the default length.
#[tokio::test(flavor = "multi_thread")]
async fn busy_identity_leaves_room_in_the_queue() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(20_000));
    let queue_check = |name: &str, cost| {
        let identity = Identity::user(name);
        let mut check = Check::new(&identity, &limits).cost(cost);
        check.time_left = Duration::from_secs(20);
        let owned: OwnedCheck = check.into_owned();
        Box::pin(store.check(&owned.borrow()).wait())
    };
    server.pause();
    // `check` queues a check at once; `wait` only waits for the answer.
    let mut busy: Vec<_> = (0..10_000).map(|_| queue_check("equal", 1)).collect();
    busy.extend((0..10_000).map(|cost| queue_check("different", cost + 1)));
    let quiet: Vec<_> = (0..100)
        .map(|i| queue_check(&format!("quiet-{i}"), 1))
        .collect();
    server.resume();
    for answer in join_all(quiet).await {
        assert!(answer.expect("the queue has room").is_allowed());
    }

    let mut answers = join_all(busy).await.into_iter();
    let equal = answers.by_ref().take(10_000);
    assert!(
        equal
            .map(Result::unwrap)
            .all(|verdict| verdict.is_allowed())
    );
    let refused = answers.filter_map(Result::err).map(|error| error.kind());
    let refused: Vec<_> = refused.collect();
    assert!(
        refused
            .iter()
            .all(|kind| *kind == StoreErrorKind::Overloaded)
    );
    assert!(
        (8_000..=8_750).contains(&refused.len()),
        "{}",
        refused.len()
    );
}

#[tokio::test]
async fn full_queue_refuses_at_once() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url())
        .max_queue(10)
        .build()
        .unwrap();
    store.ping().await.unwrap();
    server.pause();
    let limits = Limits::from(Quota::per_day(10));
    let queue_check = |index: usize| {
        let identity = Identity::user(&index.to_string());
        let owned: OwnedCheck = Check::new(&identity, &limits).into_owned();
        store.check(&owned.borrow()).wait()
    };
    let mut waiting: Vec<_> = (0..10).map(queue_check).map(Box::pin).collect();
    for waiter in &mut waiting {
        assert!(poll!(waiter).is_pending());
    }
    let refused = queue_check(10).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Overloaded);
    server.resume();
    for answer in join_all(waiting).await {
        assert!(answer.unwrap().is_allowed(), "queued checks are decided");
    }
}

/// The denial of cost 1 ends after a second, that of cost 5 does not.
#[tokio::test]
async fn expired_denial_does_not_hide_a_longer_one() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let limits = Limits::from(Quota::per_day(10));
    let alice = Identity::user("alice");
    let check = Check::new(&alice, &limits);
    let is_admitted = async |cost| {
        store
            .check(&check.cost(cost))
            .wait()
            .await
            .unwrap()
            .is_allowed()
    };
    assert!(is_admitted(10).await);
    assert!(!is_admitted(1).await);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.reset_stats().await;
    let began = Instant::now();
    for _ in 0..1_000 {
        assert!(!is_admitted(5).await);
    }
    let (calls, seconds) = (server.calls("evalsha").await, began.elapsed().as_secs());
    assert!(calls <= seconds + 2, "{calls} calls in {seconds} s");
}

#[tokio::test]
async fn late_check_does_not_void_its_batch() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(10));
    let [alice, bob] = ["alice", "bob"].map(Identity::user);
    let mut impatient = Check::new(&alice, &limits);
    impatient.time_left = Duration::from_millis(50);
    let mut patient = Check::new(&bob, &limits);
    patient.time_left = Duration::from_secs(60);
    // Both checks share a call, which the server runs after the time of one of them has passed.
    server.pause();
    let began = Instant::now();
    let answers = tokio::spawn(join_all(
        [impatient, patient].map(|check| store.check(&check).wait()),
    ));
    while began.elapsed() < 2 * impatient.time_left {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.resume();
    let answers = answers.await.unwrap();
    let late = answers[0].as_ref().unwrap_err();
    assert_eq!(late.kind(), StoreErrorKind::TimedOut);
    assert!(answers[1].as_ref().unwrap().is_allowed());
    let keys = server.keys().await;
    let others = keys.iter().filter(|key| !key.contains("{tollgate:probe}"));
    assert_eq!(
        others.collect::<Vec<_>>(),
        ["tollgate:{user:bob}:default:default:10/1d"]
    );
}

#[tokio::test]
async fn equal_checks_that_carry_fallback_counts_are_coalesced() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url())
        .max_batch_keys(1)
        .build()
        .unwrap();
    store.ping().await.unwrap();
    let limiter = Limiter::builder(store)
        .deadline(Duration::from_millis(500))
        .failures_to_open(NonZeroU32::MAX)
        .build();
    let limits = Limits::from(Quota::per_day(1_000));
    let [alice, bob] = ["alice", "bob"].map(Identity::user);
    let check = Check::new(&alice, &limits);
    let wait = Wait::until("only the check at the paused server is degraded");
    loop {
        server.pause();
        assert!(limiter.check(&check).await.is_degraded());
        server.resume();
        while limiter
            .check(&Check::new(&bob, &limits))
            .await
            .is_degraded()
        {
            wait.sleep().await;
        }
        server.reset_stats().await;
        let decisions = join_all((0..500).map(|_| limiter.check(&check).into_future())).await;
        if decisions.iter().all(|decision| !decision.is_degraded()) {
            break;
        }
        wait.sleep().await;
    }
    let calls = server.calls("evalsha").await;
    assert!(calls <= 50, "500 equal checks took {calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_round_trips_keep_checks_in_time() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    // A check that waited for an earlier round trip to end before it was sent would time out.
    proxy.delay(Duration::from_millis(150));
    let limiter = Limiter::builder(store)
        .deadline(Duration::from_millis(500))
        .failures_to_open(NonZeroU32::MAX)
        .build();
    let limits = Limits::from(Quota::per_day(1_000));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..50 {
        let identity = Identity::user(&client.to_string());
        let (limiter, limits) = (limiter.clone(), limits.clone());
        clients.spawn(async move {
            let mut in_time = 0;
            for _ in 0..10 {
                let decision = limiter.check(&Check::new(&identity, &limits)).await;
                in_time += usize::from(!decision.is_degraded());
            }
            in_time
        });
    }
    let in_time: usize = clients.join_all().await.into_iter().sum();
    assert!(in_time > 250, "{in_time} of 500 in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn denial_from_before_a_reset_is_not_cached() {
    let server = Server::start().await;
    let store = store(&server);
    let limits = Limits::from(Quota::per_day(1));
    for round in 0..3_000 {
        let user = |name: &str| Identity::user(&format!("{name} {round}"));
        let alice = user("alice");
        let alices_check = Check::new(&alice, &limits);
        assert!(check(&store, &alices_check).await.is_allowed());
        // Enough checks for two round trips: the denied check is in the first, the reset in the
        // second.
        let denied = store.check(&alices_check).wait();
        let others: Vec<_> = (0..60)
            .map(|other| {
                let other = user(&other.to_string());
                store.check(&Check::new(&other, &limits)).wait()
            })
            .collect();
        let reset = store.reset(&alices_check).wait();
        let (same_store, owned) = (store.clone(), alices_check.into_owned());
        let after = tokio::spawn(async move {
            reset.await.unwrap();
            check(&same_store, &owned.borrow()).await.is_allowed()
        });
        let (denied, after) = (denied.await.unwrap(), after.await.unwrap());
        assert!(denied.is_allowed() || after, "round {round}");
        join_all(others).await;
    }
}
