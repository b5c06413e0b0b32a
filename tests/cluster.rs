//! Limits are exact on a cluster, also while slots are being moved.

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use servers::{Cluster, Server};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tollgate::store::conformance;
use tollgate::{Check, Identity, Limits, Policy, Quota, RedisStore, Store, StoreErrorKind};

use support::{DAY, LIMIT, LONG_DEADLINE, QUOTA, User, closed_limiter, names_in_slots};

fn store(cluster: &Cluster) -> RedisStore {
    let urls = cluster.urls();
    let store = RedisStore::cluster(urls.iter().map(String::as_str));
    store.build().unwrap()
}

fn two_policies(tight: Quota) -> Limits {
    let roomy = Quota::fixed_window(20_000, 3_650 * DAY);
    Limits::new([Policy::new("tight", tight), Policy::new("roomy", roomy)]).unwrap()
}

async fn sum_of_calls(cluster: &Cluster, command: &str) -> u64 {
    let calls = cluster.nodes().iter().map(|node| node.calls(command));
    join_all(calls).await.into_iter().sum()
}

async fn reset_stats(cluster: &Cluster) {
    join_all(cluster.nodes().iter().map(Server::reset_stats)).await;
}

/// Returns a value of random characters, including all that have a meaning in keys.
fn odd_value(number: u64) -> String {
    let mut random = RandomState::new().hash_one(number);
    let letters = ['a', 'b', '{', '}', ':', '#', '*', ' ', 'ü', '\n'];
    let mut value = number.to_string();
    while random > 0 {
        value.push(letters[(random % 10) as usize]);
        random /= 1_000;
    }
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn store_conforms_and_keeps_an_identity_in_one_slot() {
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    store.ping().await.unwrap();
    reset_stats(&cluster).await;
    conformance::check(store.clone()).await;

    let limits = Limits::new((0..8).map(|i| Policy::new(format!("p{i}"), Quota::per_day(5 + i))));
    let limits = limits.unwrap();
    let identities: Vec<_> = (0..500)
        .map(|number| Identity::user(&odd_value(number)))
        .collect();
    let answers = identities
        .iter()
        .map(|identity| store.check(&Check::new(identity, &limits)).wait());
    for (identity, answer) in identities.iter().zip(join_all(answers).await) {
        let verdict = answer.unwrap_or_else(|error| panic!("{identity}: {error:?}"));
        assert!(verdict.is_allowed());
    }

    let mut tags = BTreeMap::<String, BTreeSet<usize>>::new();
    for (index, node) in cluster.nodes()[..3].iter().enumerate() {
        let keys = node.keys().await;
        assert!(keys.len() > 1_000, "node {index} has {} keys", keys.len());
        for key in keys {
            let tag = key.split(['{', '}']).nth(1).expect("braces").to_owned();
            tags.entry(tag).or_default().insert(index);
        }
        // The store computes the slot of every key, so no node had to redirect it.
        assert_eq!(node.errors("MOVED").await, 0);
    }
    assert!(tags.values().all(|nodes| nodes.len() == 1));

    // A store that was configured with one node only gets an error that names the fix.
    let single = RedisStore::new(&cluster.urls()[0]).unwrap();
    let elsewhere = Identity::user(&names_in_slots(16_383..16_384).next().unwrap());
    let check = Check::new(&elsewhere, &limits);
    let error = single.check(&check).wait().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rejected);
    assert!(
        format!("{error:?}").contains("RedisStore::cluster"),
        "{error:?}"
    );
    assert_eq!(cluster.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn batches_are_per_node_and_equal_checks_coalesced() {
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    store.ping().await.unwrap();
    let limits = Limits::from(QUOTA);
    let reads = async || {
        let primaries = cluster.nodes()[..3].iter();
        let reads = primaries.map(|node| node.statistic("stats", "total_reads_processed:"));
        join_all(reads).await.into_iter().flatten()
    };

    reset_stats(&cluster).await;
    let before = reads().await;
    let identities: Vec<_> = (0..300).map(|i| Identity::user(&i.to_string())).collect();
    let checks = identities.iter().map(|user| Check::new(user, &limits));
    let answers = checks.map(|check| store.check(&check).wait());
    for answer in join_all(answers).await {
        assert!(answer.unwrap().is_allowed());
    }
    for (before, after) in before.zip(reads().await) {
        // A server reads 16 KiB at a time, and this test's own commands are counted too.
        let reads = after - before;
        assert!(reads <= 30, "about 100 calls came in {reads} reads");
    }
    let calls = sum_of_calls(&cluster, "evalsha").await;
    assert!(
        (280..=300).contains(&calls),
        "{calls} calls for 300 identities"
    );

    reset_stats(&cluster).await;
    let alice = Identity::user("alice");
    let equal = (0..1_000).map(|_| store.check(&Check::new(&alice, &limits)).wait());
    let answers = join_all(equal).await;
    let admitted = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().is_allowed());
    assert_eq!(admitted.count(), LIMIT as usize);
    let calls = sum_of_calls(&cluster, "evalsha").await;
    assert!(calls <= 3, "{calls} calls for 1,000 equal checks");

    // A node without the script gets it once per round trip.
    for node in cluster.nodes() {
        node.command(&["SCRIPT", "FLUSH"]).await;
    }
    reset_stats(&cluster).await;
    let answers = identities
        .iter()
        .map(|user| store.check(&Check::new(user, &limits)).wait());
    for answer in join_all(answers).await {
        assert!(answer.unwrap().is_allowed());
    }
    // Four round trips to each node may overlap, and each of them sends the script.
    let sent = sum_of_calls(&cluster, "eval").await;
    assert!((3..=12).contains(&sent), "the script was sent {sent} times");
}

#[tokio::test]
async fn count_continues_after_its_slot_has_moved() {
    let cluster = Cluster::start().await;
    let limiters =
        [store(&cluster), store(&cluster)].map(|store| closed_limiter(&store, LONG_DEADLINE));
    for limits in [QUOTA.into(), two_policies(QUOTA)] {
        let mut alice = User::with_limits("alice", limits);
        let slot = cluster.slot_of(&alice.hash_tag()).await;
        alice.spend(&limiters[0], 2).await;
        for _ in 0..3 {
            let to = (cluster.primary_of(slot).await + 1) % 3;
            cluster.move_slot(slot, to).await;
            for limiter in &limiters {
                alice.spend(limiter, 1).await;
            }
        }
        alice.spend_remaining(&limiters[1]).await;
    }
}

#[tokio::test]
async fn nodes_are_found_by_every_endpoint_type() {
    let cluster = Cluster::start().await;
    for (endpoint_type, hostname) in [("unknown-endpoint", ""), ("hostname", "localhost")] {
        for node in cluster.nodes() {
            let option = "cluster-preferred-endpoint-type";
            let set = [
                "CONFIG",
                "SET",
                "cluster-announce-hostname",
                hostname,
                option,
                endpoint_type,
            ];
            if let Err(error) = node.try_command(&set).await {
                // Redis 6.2 has no such option.
                servers::skip(&format!("names of cluster nodes: {error}"));
                return;
            }
        }
        let store = store(&cluster);
        store.ping().await.unwrap();
        let limiter = closed_limiter(&store, LONG_DEADLINE);
        let mut user = User::new(endpoint_type);
        user.spend(&limiter, 1).await;
        let slot = cluster.slot_of(&user.hash_tag()).await;
        let to = (cluster.primary_of(slot).await + 1) % 3;
        cluster.move_slot(slot, to).await;
        user.spend_remaining(&limiter).await;
    }
}

#[tokio::test]
async fn counts_hold_while_a_slot_moves() {
    let cluster = Cluster::start().await;
    let (store, other) = (store(&cluster), store(&cluster));
    let limiter = closed_limiter(&store, LONG_DEADLINE);
    let mut names = names_in_slots(42..43);
    let mut one_key = || User::new(&names.next().unwrap());
    let [mut staying, mut moved, mut new] = [one_key(), one_key(), one_key()];
    let mut two_keys = || User::with_limits(&names.next().unwrap(), two_policies(QUOTA));
    let [mut both_staying, mut both_moved, mut split, mut both_new] =
        [two_keys(), two_keys(), two_keys(), two_keys()];
    for user in [
        &mut staying,
        &mut moved,
        &mut both_staying,
        &mut both_moved,
        &mut split,
    ] {
        user.spend(&limiter, 3).await;
    }
    let to = 1;
    let from = cluster.start_move(42, to).await;
    for key in cluster.nodes()[from].keys().await {
        let is_moved = [&moved, &both_moved]
            .iter()
            .any(|user| key.contains(&user.hash_tag()));
        if is_moved || key.contains(&split.hash_tag()) && key.contains("tight") {
            cluster.migrate(&[key], from, to).await;
        }
    }

    for user in [
        &mut staying,
        &mut moved,
        &mut new,
        &mut both_staying,
        &mut both_moved,
    ] {
        // A NOSCRIPT reply uses up ASKING, so the store must send it again.
        cluster.nodes()[to].command(&["SCRIPT", "FLUSH"]).await;
        user.spend(&limiter, 3).await;
    }
    // No node has both keys of these users, and none may ever have if the move is abandoned.
    for user in [&mut split, &mut both_new] {
        for _ in 0..5 {
            assert!(user.check(&limiter).await.is_degraded());
        }
        let check = Check::new(&user.identity, &user.limits);
        let error = store.check(&check).wait().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unusable, "{error:?}");
    }
    let mut bystander = User::new(&names_in_slots(0..42).next().unwrap());
    bystander.spend(&limiter, 3).await;

    cluster.move_keys(42, from, to).await;
    cluster.finish_move(42, from, to).await;
    let other = closed_limiter(&other, LONG_DEADLINE);
    for mut user in [
        staying,
        moved,
        new,
        both_staying,
        both_moved,
        split,
        both_new,
    ] {
        user.spend(&other, 1).await;
        user.spend_remaining(&limiter).await;
    }
}

/// Half of the keys have moved when 60 tasks check their users, and new users, for two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn batches_in_a_moving_slot_fail_no_check() {
    const LIMIT: u32 = 1_000_000;
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    let limits = Limits::from(Quota::fixed_window(LIMIT, 3_650 * DAY));
    let names = names_in_slots(42..43).take(240);
    let users: Vec<_> = names
        .map(|name| (Identity::user(&name), AtomicU32::new(0)))
        .collect();
    let charge = async |(identity, charged): &(Identity, AtomicU32)| {
        let mut check = Check::new(identity, &limits);
        check.time_left = LONG_DEADLINE;
        let verdict = store.check(&check).wait().await;
        let verdict = verdict.expect("each key is at one of two nodes");
        assert!(verdict.is_allowed());
        charged.fetch_add(1, Ordering::Relaxed);
    };
    join_all(users[..40].iter().map(charge)).await;
    let from = cluster.start_move(42, 1).await;
    let keys = cluster.nodes()[from].keys().await;
    let user_keys = keys.iter().filter(|key| key.contains(":{user:"));
    let half: Vec<_> = user_keys.step_by(2).collect();
    cluster.migrate(&half, from, 1).await;
    join_all(users[..40].iter().map(charge)).await;
    let began = std::time::Instant::now();
    let tasks = (0..60).map(|task| {
        let (users, charge) = (&users, &charge);
        async move {
            let mut index = task;
            while began.elapsed() < Duration::from_secs(2) {
                charge(&users[index % users.len()]).await;
                index += 7;
                sleep(Duration::from_millis(5)).await;
            }
        }
    });
    join_all(tasks).await;
    let node = &cluster.nodes()[from];
    let redirected = node.errors("TRYAGAIN").await + node.errors("ASK").await;
    assert!(redirected > 0, "no check met a key that has moved");
    let limiter = closed_limiter(&store, LONG_DEADLINE);
    for (identity, charged) in &users {
        let left = limiter.peek(&Check::new(identity, &limits)).await;
        let charged = charged.load(Ordering::Relaxed);
        assert_eq!(left.remaining(), LIMIT - charged, "{identity}");
    }
}

/// The state shared by the tasks of [`limits_hold_exactly_while_slots_move_under_load`].
struct Shared {
    identities: Vec<Identity>,
    limits: [Limits; 2],
    admitted: Vec<AtomicU32>,
    moving: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_exactly_while_slots_move_under_load() {
    const SLOTS: u32 = 5;
    const MOVES: u32 = 4;
    // More than the tasks can use up while slots are being moved.
    const LIMIT: u32 = 4_000;
    let cluster = Cluster::start().await;
    let stores = [store(&cluster), store(&cluster)];
    let limiters = stores.map(|store| closed_limiter(&store, LONG_DEADLINE));
    let quota = Quota::fixed_window(LIMIT, 3_650 * DAY);
    let limits = [quota.into(), two_policies(quota)];
    let identities: Vec<_> = (0..SLOTS).map(|i| Identity::user(&i.to_string())).collect();
    // One counter for each identity under each of the limits.
    let admitted: Vec<_> = (0..2 * SLOTS).map(|_| AtomicU32::new(0)).collect();
    let shared = Arc::new(Shared {
        identities,
        limits,
        admitted,
        moving: AtomicBool::new(true),
    });

    let mut tasks = JoinSet::new();
    for task in 0..20 {
        let (limiter, shared) = (limiters[task % 2].clone(), shared.clone());
        let index = task % (2 * SLOTS as usize);
        tasks.spawn(async move {
            let limits = &shared.limits[index % 2];
            let check = Check::new(&shared.identities[index / 2], limits);
            loop {
                let decision = limiter.check(&check).await;
                // New entries of several policies cannot be written before the move is finished.
                let one_policy = limits.policies().len() == 1;
                assert!(!one_policy || !decision.is_degraded(), "{}", check.identity);
                let allowed = u32::from(decision.is_allowed());
                shared.admitted[index].fetch_add(allowed, Ordering::Relaxed);
                if shared.moving.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(10)).await;
                } else if !decision.is_degraded() && !decision.is_allowed() {
                    break;
                }
            }
        });
    }
    for round in 0..MOVES {
        for identity in &shared.identities {
            let slot = cluster.slot_of(&identity.to_string()).await;
            let to = (cluster.primary_of(slot).await + 1 + round as usize % 2) % 3;
            cluster.move_slot(slot, to).await;
        }
    }
    let during_moves: Vec<_> = shared
        .admitted
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    shared.moving.store(false, Ordering::Relaxed);
    tasks.join_all().await;
    for code in ["MOVED", "ASK"] {
        let errors = join_all(cluster.nodes().iter().map(|node| node.errors(code))).await;
        assert!(
            errors.iter().sum::<u64>() > 0,
            "no check was redirected by {code}"
        );
    }
    for (admitted, during_moves) in shared.admitted.iter().zip(during_moves) {
        assert!(
            (1..LIMIT).contains(&during_moves),
            "{during_moves} were admitted while slots moved"
        );
        assert_eq!(admitted.load(Ordering::Relaxed), LIMIT);
    }
    assert_eq!(cluster.keys_without_ttl().await, [""; 0]);
}
