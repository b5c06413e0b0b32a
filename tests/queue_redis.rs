//! Queues in Redis: places are taken in one round trip, by the server's clock.

#[path = "support/redis/mod.rs"]
mod servers;

use std::time::Duration;

use futures_util::future::join_all;
use servers::Server;
use tollgate::{Check, Identity, Limiter, Limits, Quota, RedisStore, Store};

/// A deadline that no busy machine misses.
const LONG_DEADLINE: Duration = Duration::from_secs(15);

/// Three minutes for a token, so that none is refilled while a test runs.
const SLOW: Quota = Quota::token_bucket(20, Duration::from_secs(3_600))
    .burst(2)
    .queue(4);

async fn connected(server: &Server) -> RedisStore {
    let store = RedisStore::new(&server.url()).unwrap();
    store.ping().await.unwrap();
    store
}

#[tokio::test]
async fn thousand_callers_are_spaced_evenly_by_few_calls() {
    let server = Server::start().await;
    let store = connected(&server).await;
    let quota = Quota::per_second(10).burst(1).queue(1_000);
    let (alice, limits) = (Identity::user("alice"), Limits::from(quota));
    let check = Check::new(&alice, &limits).max_wait(Duration::MAX);
    server.reset_stats().await;
    let verdicts = join_all((0..1_000).map(|_| store.check(&check).wait())).await;
    let mut releases = verdicts.into_iter().map(|verdict| {
        let verdict = verdict.unwrap();
        let (_, status) = quota.step_within(verdict.states()[0], verdict.now(), 1, Duration::MAX);
        assert_eq!((verdict.is_allowed(), status.is_allowed()), (true, true));
        verdict.now() + status.delay().as_micros() as u64
    });
    let first = releases.next().unwrap();
    for (release, place) in releases.zip(1..) {
        assert_eq!(release, first + place * 100_000, "place {place}");
    }
    let calls = server.calls("evalsha").await;
    assert!(calls <= 10, "1,000 equal checks took {calls} calls");
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn decisions_of_concurrent_callers_are_delayed_in_order() {
    let server = Server::start().await;
    let store = connected(&server).await;
    let limiter = Limiter::builder(store).deadline(LONG_DEADLINE).build();
    let (alice, limits) = (Identity::user("alice"), Limits::from(SLOW));
    let check = Check::new(&alice, &limits).max_wait(Duration::MAX);
    let decisions = join_all((0..8).map(|_| async { limiter.check(&check).await })).await;
    let allowed: Vec<_> = decisions
        .iter()
        .map(|decision| decision.is_allowed())
        .collect();
    assert_eq!(allowed, [true, true, true, true, true, true, false, false]);
    let minute = Duration::from_secs(60);
    for (place, decision) in (1..).zip(&decisions[2..6]) {
        let delay = decision.delay();
        assert!(
            3 * (place - 1) * minute < delay && delay <= 3 * place * minute,
            "{delay:?}"
        );
    }
    assert_eq!(
        [decisions[0].delay(), decisions[1].delay()],
        [Duration::ZERO; 2]
    );
}

#[tokio::test]
async fn checks_of_one_batch_have_their_own_maximum_waits() {
    let server = Server::start().await;
    let store = connected(&server).await;
    let (alice, limits) = (Identity::user("alice"), Limits::from(SLOW));
    let check = Check::new(&alice, &limits);
    let minute = Duration::from_secs(60);
    let waits = [
        None,
        Some(Duration::MAX),
        None,
        Some(4 * minute),
        Some(minute),
        Some(4 * minute),
    ];
    let checks = waits.map(|wait| wait.map_or(check, |wait| check.max_wait(wait)));
    server.reset_stats().await;
    let verdicts = join_all(checks.map(|check| store.check(&check).wait())).await;
    let allowed: Vec<_> = verdicts
        .into_iter()
        .map(|verdict| verdict.unwrap().is_allowed())
        .collect();
    // Equal checks are decided together: first both without a wait, then the check with an unlimited wait,
    // which takes the place at three minutes. The next place is beyond the four minutes of the last checks.
    assert_eq!(allowed, [true, true, true, false, false, false]);
    let later = store
        .check(&check.max_wait(7 * minute))
        .wait()
        .await
        .unwrap();
    assert!(later.is_allowed(), "the denied checks took no place");
}

#[tokio::test]
async fn cached_denial_never_denies_a_check_that_may_wait() {
    let server = Server::start().await;
    let store = connected(&server).await;
    let (alice, limits) = (Identity::user("alice"), Limits::from(SLOW));
    let check = Check::new(&alice, &limits);
    let waiting = check.max_wait(Duration::MAX);
    let allowed = async |check: &Check<'_>| store.check(check).wait().await.unwrap().is_allowed();
    assert!(allowed(&check.cost(2)).await);
    assert!(!allowed(&check).await);
    for place in 1..=4 {
        assert!(!allowed(&check).await, "the burst is used");
        assert!(allowed(&waiting).await, "place {place} is free");
    }
    assert!(!allowed(&waiting).await, "the queue is full");
    server.reset_stats().await;
    for impatient in [waiting, check, check.max_wait(Duration::from_secs(60))] {
        assert!(!allowed(&impatient).await);
    }
    // A busy machine may take longer than the second for which a denial is cached.
    let calls = server.calls("evalsha").await;
    assert!(
        calls <= 1,
        "a cached denial covers shorter waits: {calls} calls"
    );
}
