//! Limits of organisations and of their users are exact when several stores share a server or a
//! cluster, also while a slot moves, and when the server is down.

#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures_util::future::join_all;
use redis_limiter::wait_until_breaker_opens;
use servers::{Cluster, Proxy, Server};
use tollgate::{Check, Identity, Kind, Limiter, Limits, Permit, Policy, Quota, RedisStore};

use support::{DAY, LONG_DEADLINE, closed_limiter};

const ORG: Kind = Kind::new("org");

const USERS: usize = 40;

/// The limits of a user and of an organisation.
const USER_LIMIT: u32 = 5;
const ORG_LIMIT: u32 = 101;

fn limits() -> Limits {
    let [user, org] = [USER_LIMIT, ORG_LIMIT].map(|limit| Quota::token_bucket(limit, 3_650 * DAY));
    Limits::new([Policy::new("user", user), Policy::new("org", org).per(&ORG)]).unwrap()
}

fn users() -> Vec<Identity> {
    let acme = Identity::new(&ORG, "acme");
    let users = (0..USERS).map(|number| Identity::user(&number.to_string()));
    users
        .map(|user| user.within(acme.clone()).unwrap())
        .collect()
}

/// Makes ten checks of each user, all at once, over these limiters in turn. Returns how many each
/// user was allowed.
async fn allowed(limiters: &[Limiter], limits: &Limits) -> Vec<u32> {
    let users = users();
    let checks = users.iter().map(|user| {
        join_all((0..10).map(|number| {
            let limiter = &limiters[number % limiters.len()];
            async move { limiter.check(&Check::new(user, limits)).await.is_allowed() }
        }))
    });
    let allowed = join_all(checks).await.into_iter();
    allowed
        .map(|of_user| of_user.into_iter().filter(|allowed| *allowed).count() as u32)
        .collect()
}

/// Asserts that the organisation was allowed exactly its limit, no user more than its own, and that
/// no denied check charged its user.
async fn assert_exact(limiters: &[Limiter]) {
    let limits = limits();
    let of_users = allowed(limiters, &limits).await;
    assert_eq!(of_users.iter().sum::<u32>(), ORG_LIMIT, "{of_users:?}");
    assert!(
        of_users.iter().all(|allowed| *allowed <= USER_LIMIT),
        "{of_users:?}"
    );

    let own = Limits::new([limits.policies()[0].clone()]).unwrap();
    for (user, allowed) in users().iter().zip(of_users) {
        let peeked = limiters[0].peek(&Check::new(user, &own)).await;
        assert_eq!(peeked.remaining(), USER_LIMIT - allowed, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_is_exact_over_two_stores() {
    let server = Server::start().await;
    let limiters = [(); 2].map(|()| {
        let store = RedisStore::builder(&server.url()).connections(2).build();
        closed_limiter(&store.unwrap(), LONG_DEADLINE)
    });
    assert_exact(&limiters).await;
    let calls = server.calls("evalsha").await;
    assert!(
        calls < 200,
        "the checks of users share calls: {calls} calls"
    );
    let prefix = "tollgate:{org:acme}:";
    let keys: BTreeSet<String> = server.keys().await.into_iter().collect();
    assert!(
        keys.contains(&format!("{prefix}default:org:101/3650d")),
        "{keys:?}"
    );
    assert!(
        keys.contains(&format!("{prefix}user:7:default:user:5/3650d")),
        "{keys:?}"
    );
}

/// Takes slots of an organisation for its users, all at once, until no user or no slot is left.
/// Asserts that exactly `expected` are taken, and that a denied check takes none and charges no user.
async fn assert_exact_slots(server: &Server, slots: u32, expected: u32) {
    let limiters = [(); 2].map(|()| {
        let store = RedisStore::new(&server.url()).unwrap();
        closed_limiter(&store, LONG_DEADLINE)
    });
    let user = Policy::new("user", Quota::fixed_window(USER_LIMIT, 3_650 * DAY));
    let org = Policy::new("org", Quota::concurrent(slots)).per(&ORG);
    let limits = Limits::new([user.clone(), org.clone()]).unwrap();
    let [of_user, of_org] = [user, org].map(|policy| Limits::new([policy]).unwrap());
    let (limiters, limits, users) = (&limiters, &limits, &users());
    let remaining = async |user: &Identity, limits: &Limits| {
        let peeked = limiters[0].peek(&Check::new(user, limits)).await;
        assert!(!peeked.is_degraded());
        peeked.remaining()
    };

    server.reset_stats().await;
    let attempts = (0..10 * USERS).map(|number| async move {
        let user = number % USERS;
        let check = Check::new(&users[user], limits);
        let permit = limiters[number % 3 % 2].acquire(&check).await;
        Some((user, permit.ok()?))
    });
    let taken: Vec<(usize, Permit)> = join_all(attempts).await.into_iter().flatten().collect();
    let calls = server.calls("evalsha").await;
    assert!(
        calls < 100,
        "the checks of users share calls: {calls} calls"
    );
    assert_eq!(taken.len() as u32, expected, "{slots} slots");
    assert_eq!(remaining(&users[0], &of_org).await, slots - expected);
    for (number, user) in users.iter().enumerate() {
        let taken = taken.iter().filter(|(of, _)| *of == number).count() as u32;
        assert_eq!(
            remaining(user, &of_user).await,
            USER_LIMIT - taken,
            "{user}"
        );
    }

    // Every second charge is given back. A slot is always released.
    let mut kept = [0; USERS];
    for (number, (user, permit)) in taken.into_iter().enumerate() {
        match number % 2 {
            0 => permit.refund(),
            _ => kept[user] += 1,
        }
    }
    for limiter in limiters {
        limiter.flush().await;
    }
    assert_eq!(remaining(&users[0], &of_org).await, slots);
    for (user, kept) in users.iter().zip(kept) {
        assert_eq!(remaining(user, &of_user).await, USER_LIMIT - kept, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_an_organisation_are_exact() {
    for (slots, expected) in [(101, 101), (300, USERS as u32 * USER_LIMIT)] {
        assert_exact_slots(&Server::start().await, slots, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_is_exact_on_a_cluster() {
    let cluster = Cluster::start().await;
    let limiters = [(); 2].map(|()| {
        let urls = cluster.urls();
        let store = RedisStore::cluster(urls.iter().map(String::as_str)).build();
        closed_limiter(&store.unwrap(), LONG_DEADLINE)
    });
    assert_exact(&limiters).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_is_exact_while_its_slot_moves() {
    let cluster = Cluster::start().await;
    let urls = cluster.urls();
    let store = RedisStore::cluster(urls.iter().map(String::as_str)).build();
    let limiter = closed_limiter(&store.unwrap(), LONG_DEADLINE);
    let (limits, users) = (limits(), users());
    let slot = cluster.slot_of("{org:acme}").await;
    let (has_moved, allowed) = (AtomicBool::new(false), AtomicU32::new(0));
    let check = async |user: &Identity| {
        let decision = limiter.check(&Check::new(user, &limits)).await;
        allowed.fetch_add(decision.is_allowed().into(), Ordering::Relaxed);
        decision.is_degraded()
    };
    let checks = join_all(users.iter().map(async |user| {
        while !has_moved.load(Ordering::Relaxed) {
            check(user).await;
        }
        for _ in 0..USER_LIMIT {
            assert!(!check(user).await, "the slot is not split any more");
        }
    }));
    let moves = async {
        for _ in 0..3 {
            let to = (cluster.primary_of(slot).await + 1) % 3;
            cluster.move_slot(slot, to).await;
        }
        has_moved.store(true, Ordering::Relaxed);
    };
    futures_util::join!(checks, moves);
    assert_eq!(allowed.into_inner(), ORG_LIMIT);
}

#[tokio::test]
async fn fallback_counts_levels_and_the_store_joins_them() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = RedisStore::new(&proxy.url()).unwrap();
    let limiter = Limiter::builder(store).deadline(LONG_DEADLINE).build();
    let (limits, users) = (limits(), users());
    proxy.refuse_connections();
    proxy.close_connections();
    wait_until_breaker_opens(&limiter).await;

    let of_users = allowed(std::slice::from_ref(&limiter), &limits).await;
    assert_eq!(of_users.iter().sum::<u32>(), ORG_LIMIT, "{of_users:?}");

    proxy.forward();
    redis_limiter::wait_until_store_decides(&limiter).await;
    let decision = limiter.check(&Check::new(&users[0], &limits)).await;
    assert!(!decision.is_allowed() && !decision.is_degraded());
}
