//! Checks share round trips, and what is sure to be denied needs none.

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
use tollgate::{
    Check, Identity, Limiter, Limits, Outcome, OwnedCheck, Quota, RedisStore, Store,
    StoreErrorKind, Verdict,
};

const DAY: Duration = Duration::from_secs(86_400);

fn store(server: &Server) -> RedisStore {
    RedisStore::new(&server.url()).unwrap()
}

async fn check(store: &RedisStore, check: &Check<'_>) -> Verdict {
    store.check(check).wait().await.unwrap()
}

/// How many of so many equal checks at once are admitted.
async fn admitted(store: &RedisStore, check: &Check<'_>, times: usize) -> usize {
    let answers = (0..times).map(|_| store.check(check).wait());
    let answers = join_all(answers).await;
    let allowed = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().is_allowed());
    allowed.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_checks_takes_few_round_trips() {
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
async fn of_many_who_come_again_and_again_nobody_is_put_aside() {
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
                // Until one has been answered so often.
                if counts[index].fetch_add(1, Ordering::Relaxed) == 200 {
                    break;
                }
            }
        });
    }
    tasks.join_next().await.unwrap().unwrap();
    let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
    let least = counts.min().unwrap();
    assert!(least >= 100, "one was answered {least} times");
}

#[tokio::test]
async fn equal_checks_are_decided_as_one_and_no_more_pass_than_may() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    for (cost, passing) in [(1, 100), (7, 14), (100, 1), (101, 0), (0, 1_000)] {
        for quota in [
            Quota::per_day(100),
            Quota::sliding_window(100, DAY),
            Quota::fixed_window(100, DAY),
        ] {
            let (identity, limits) = (Identity::user(&cost.to_string()), Limits::from(quota));
            let equal = Check::new(&identity, &limits).cost(cost);
            server.reset_stats().await;
            assert_eq!(
                admitted(&store, &equal, 1_000).await,
                passing,
                "{quota} cost {cost}"
            );
            let calls = server.calls("evalsha").await;
            assert!(calls <= 3, "{quota}: 1,000 equal checks took {calls} calls");
        }
    }
}

#[tokio::test]
async fn different_costs_of_one_identity_in_one_call_see_each_other() {
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
async fn places_of_those_who_have_hung_up_go_to_those_who_wait() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(3)));
    let mut waiting: Vec<_> = (0..5)
        .map(|_| store.check(&Check::new(&alice, &limits)).wait())
        .map(Box::pin)
        .collect();
    // They share a call, which is under way when two of them hang up.
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
async fn a_million_denied_checks_hardly_reach_the_server() {
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
async fn a_denial_is_remembered_for_what_costs_as_much_and_for_nothing_else() {
    let server = Server::start().await;
    let store = store(&server);
    let [alice, bob] = ["alice", "bob"].map(Identity::user);
    let [limits, others] = [10, 20].map(|limit| Limits::from(Quota::per_day(limit)));
    let denied = Check::new(&alice, &limits);
    check(&store, &denied.cost(6)).await;
    let ready = |check: Check<'_>| matches!(store.check(&check), Outcome::Ready(_));
    assert!(!check(&store, &denied.cost(5)).await.is_allowed());

    assert!(ready(denied.cost(5)) && ready(denied.cost(9)));
    assert!(!ready(denied.cost(4)) && !ready(denied.cost(0)));
    assert!(!ready(Check::new(&alice, &others).cost(5)));
    assert!(!ready(Check::new(&bob, &limits).cost(5)));
}

#[tokio::test]
async fn reset_through_this_store_is_seen_at_once() {
    let server = Server::start().await;
    let store = store(&server);
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let one = Check::new(&alice, &limits);
    assert_eq!(admitted(&store, &one, 2).await, 1);
    store.reset(&one).wait().await.unwrap();
    assert_eq!(admitted(&store, &one, 2).await, 1, "after a reset");
}

#[tokio::test]
async fn reset_by_another_process_is_seen_soon() {
    let server = Server::start().await;
    let [here, there] = [store(&server), store(&server)];
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let one = Check::new(&alice, &limits);
    assert_eq!(admitted(&here, &one, 2).await, 1);
    there.reset(&one).wait().await.unwrap();
    let wait = Wait::until("the denial is forgotten");
    while !check(&here, &one).await.is_allowed() {
        wait.on().await;
    }
}

/// The checks wait behind a server that is paused, in a queue of the usual length.
#[tokio::test(flavor = "multi_thread")]
async fn busy_identity_leaves_room_in_the_queue() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(20_000));
    let ask = |name: &str, cost| {
        let identity = Identity::user(name);
        let mut check = Check::new(&identity, &limits).cost(cost);
        check.time_left = Duration::from_secs(20);
        let owned: OwnedCheck = check.into_owned();
        Box::pin(store.check(&owned.borrow()).wait())
    };
    server.pause();
    // To ask is to queue; to wait is for the answer only.
    let mut busy: Vec<_> = (0..10_000).map(|_| ask("equal", 1)).collect();
    busy.extend((0..10_000).map(|cost| ask("different", cost + 1)));
    let quiet: Vec<_> = (0..100).map(|i| ask(&format!("quiet-{i}"), 1)).collect();
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
async fn a_full_queue_refuses_at_once() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url())
        .longest_queue(10)
        .build()
        .unwrap();
    store.ping().await.unwrap();
    server.pause();
    let limits = Limits::from(Quota::per_day(10));
    let asked = |index: usize| {
        let identity = Identity::user(&index.to_string());
        let owned: OwnedCheck = Check::new(&identity, &limits).into_owned();
        store.check(&owned.borrow()).wait()
    };
    let mut waiting: Vec<_> = (0..10).map(asked).map(Box::pin).collect();
    for waiter in &mut waiting {
        assert!(poll!(waiter).is_pending());
    }
    let refused = asked(10).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Overloaded);
    server.resume();
    for answer in join_all(waiting).await {
        assert!(
            answer.unwrap().is_allowed(),
            "those in the queue are served"
        );
    }
}

/// The memory of a cheaper denial that has ended must not hide that of this one.
#[tokio::test]
async fn a_denial_that_has_ended_does_not_hide_one_that_has_not() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let limits = Limits::from(Quota::per_day(10));
    let alice = Identity::user("alice");
    let check = Check::new(&alice, &limits);
    let ask = async |cost| {
        store
            .check(&check.cost(cost))
            .wait()
            .await
            .unwrap()
            .is_allowed()
    };
    assert!(ask(10).await);
    assert!(!ask(1).await);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    server.reset_stats().await;
    let began = Instant::now();
    for _ in 0..1_000 {
        assert!(!ask(5).await);
    }
    let (calls, seconds) = (server.calls("evalsha").await, began.elapsed().as_secs());
    assert!(calls <= seconds + 2, "{calls} calls in {seconds} s");
}

#[tokio::test]
async fn a_check_that_comes_too_late_voids_no_other() {
    let server = Server::start().await;
    let store = store(&server);
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(10));
    let [alice, bob] = ["alice", "bob"].map(Identity::user);
    let mut impatient = Check::new(&alice, &limits);
    impatient.time_left = Duration::from_millis(50);
    let mut patient = Check::new(&bob, &limits);
    patient.time_left = Duration::from_secs(60);
    // They share a call, which the server gets round to when only one of them is still there.
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
async fn equal_checks_are_decided_as_one_though_they_carry_what_the_fallback_counted() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url())
        .most_keys(1)
        .build()
        .unwrap();
    store.ping().await.unwrap();
    let limiter = Limiter::builder(store)
        .deadline(Duration::from_millis(500))
        .failures_to_open(NonZeroU32::MAX)
        .build();
    let limits = Limits::from(Quota::per_day(1_000));
    let [alice, bob] = ["alice", "bob"].map(Identity::user);
    let one = Check::new(&alice, &limits);
    let wait = Wait::until("nothing is degraded but what was to be");
    loop {
        server.pause();
        assert!(limiter.check(&one).await.is_degraded());
        server.resume();
        while limiter
            .check(&Check::new(&bob, &limits))
            .await
            .is_degraded()
        {
            wait.on().await;
        }
        server.reset_stats().await;
        let decisions = join_all((0..500).map(|_| limiter.check(&one).into_future())).await;
        if decisions.iter().all(|decision| !decision.is_degraded()) {
            break;
        }
        wait.on().await;
    }
    let calls = server.calls("evalsha").await;
    assert!(calls <= 50, "500 equal checks took {calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_one_in_time_answers_many_in_time() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    store.ping().await.unwrap();
    // Who had to wait for the end of another's round trip would wait too long.
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
            let mut decided = 0;
            for _ in 0..10 {
                let decision = limiter.check(&Check::new(&identity, &limits)).await;
                decided += usize::from(!decision.is_degraded());
            }
            decided
        });
    }
    let decided: usize = clients.join_all().await.into_iter().sum();
    assert!(decided > 250, "{decided} of 500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_was_denied_before_a_reset_is_admitted_after_it_though_round_trips_overlap() {
    let server = Server::start().await;
    let store = store(&server);
    let limits = Limits::from(Quota::per_day(1));
    for round in 0..3_000 {
        let user = |name: &str| Identity::user(&format!("{name} {round}"));
        let alice = user("alice");
        let alices = Check::new(&alice, &limits);
        assert!(check(&store, &alices).await.is_allowed());
        // So many wait that they go by two round trips: the check by the first, the reset by the
        // second.
        let denied = store.check(&alices).wait();
        let others: Vec<_> = (0..60)
            .map(|other| {
                let other = user(&other.to_string());
                store.check(&Check::new(&other, &limits)).wait()
            })
            .collect();
        let reset = store.reset(&alices).wait();
        let (same_store, owned) = (store.clone(), alices.into_owned());
        let after = tokio::spawn(async move {
            reset.await.unwrap();
            check(&same_store, &owned.borrow()).await.is_allowed()
        });
        let (denied, after) = (denied.await.unwrap(), after.await.unwrap());
        assert!(denied.is_allowed() || after, "round {round}");
        join_all(others).await;
    }
}
