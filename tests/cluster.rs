//! One limit over all nodes of a cluster, while its slots stay where they are and while they move.

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/spender.rs"]
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
use tollgate::test_util::conformance;
use tollgate::{Check, Identity, Limits, Policy, Quota, RedisStore, Store, StoreErrorKind};

use support::{DAY, LIMIT, NEVER_LATE, QUOTA, User, names_in, strict};

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

/// How many errors of this code a node has replied since its statistics were reset.
async fn errors(node: &Server, code: &str) -> u64 {
    let statistics: String = node.ask(&["INFO", "errorstats"]).await;
    let prefix = format!("errorstat_{code}:count=");
    let count = statistics
        .lines()
        .find_map(|line| line.strip_prefix(&prefix));
    count.map_or(0, |count| count.parse().unwrap())
}

/// Values in which everything is that could be taken for a part of a key.
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
async fn the_store_conforms_on_a_cluster_and_all_keys_of_an_identity_are_in_one_slot() {
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
        // The store knows the slot of every key, so nobody had to tell it.
        assert_eq!(errors(node, "MOVED").await, 0);
    }
    assert!(tags.values().all(|nodes| nodes.len() == 1));

    // Who takes one node for all of them is told so.
    let alone = RedisStore::new(&cluster.urls()[0]).unwrap();
    let elsewhere = Identity::user(&names_in(16_383..16_384).next().unwrap());
    let check = Check::new(&elsewhere, &limits);
    let error = alone.check(&check).wait().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rejected);
    assert!(
        format!("{error:?}").contains("RedisStore::cluster"),
        "{error:?}"
    );
    assert_eq!(cluster.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn a_burst_is_one_write_to_each_node_and_equal_checks_are_few_calls() {
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    store.ping().await.unwrap();
    let limits = Limits::from(QUOTA);
    let reads = async || {
        let of = async |node: &Server| -> u64 {
            let statistics: String = node.ask(&["INFO", "stats"]).await;
            let line = statistics
                .lines()
                .find_map(|line| line.strip_prefix("total_reads_processed:"));
            line.expect("reads are counted").parse().unwrap()
        };
        join_all(cluster.nodes()[..3].iter().map(of)).await
    };

    reset_stats(&cluster).await;
    let before = reads().await;
    let identities: Vec<_> = (0..300).map(|i| Identity::user(&i.to_string())).collect();
    let checks = identities.iter().map(|who| Check::new(who, &limits));
    let answers = checks.map(|check| store.check(&check).wait());
    for answer in join_all(answers).await {
        assert!(answer.unwrap().is_allowed());
    }
    for (before, after) in before.into_iter().zip(reads().await) {
        // A server reads 16 KiB at a time, and reads this test's own questions too.
        let reads = after - before;
        assert!(reads <= 30, "about 100 calls came in {reads} reads");
    }
    let calls = sum_of_calls(&cluster, "evalsha").await;
    assert!((280..=300).contains(&calls), "300 identities: {calls}");

    reset_stats(&cluster).await;
    let alice = Identity::user("alice");
    let equal = (0..1_000).map(|_| store.check(&Check::new(&alice, &limits)).wait());
    let answers = join_all(equal).await;
    let admitted = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().is_allowed());
    assert_eq!(admitted.count(), LIMIT as usize);
    let calls = sum_of_calls(&cluster, "evalsha").await;
    assert!(calls <= 3, "1,000 equal checks: {calls}");

    // A node that has forgotten the script is told it once in a round trip, whatever else was asked.
    for node in cluster.nodes() {
        node.command(&["SCRIPT", "FLUSH"]).await;
    }
    reset_stats(&cluster).await;
    let answers = identities
        .iter()
        .map(|who| store.check(&Check::new(who, &limits)).wait());
    for answer in join_all(answers).await {
        assert!(answer.unwrap().is_allowed());
    }
    // Four round trips may overlap, and each of them learns it.
    let told = sum_of_calls(&cluster, "eval").await;
    assert!((3..=12).contains(&told), "told {told} times");
}

#[tokio::test]
async fn a_count_goes_on_when_its_slot_has_moved() {
    let cluster = Cluster::start().await;
    let limiters = [store(&cluster), store(&cluster)].map(|store| strict(&store, NEVER_LATE));
    for limits in [QUOTA.into(), two_policies(QUOTA)] {
        let mut alice = User::with("alice", limits);
        let slot = cluster.slot_of(&alice.tag()).await;
        alice.spend(&limiters[0], 2).await;
        for _ in 0..3 {
            let to = (cluster.primary_of(slot).await + 1) % 3;
            cluster.move_slot(slot, to).await;
            for limiter in &limiters {
                alice.spend(limiter, 1).await;
            }
        }
        alice.spend_the_rest(&limiters[1]).await;
    }
}

#[tokio::test]
async fn nodes_are_found_whatever_they_call_themselves() {
    let cluster = Cluster::start().await;
    for (kind, name) in [("unknown-endpoint", ""), ("hostname", "localhost")] {
        for node in cluster.nodes() {
            let option = "cluster-preferred-endpoint-type";
            let set = [
                "CONFIG",
                "SET",
                "cluster-announce-hostname",
                name,
                option,
                kind,
            ];
            if let Err(error) = node.try_command(&set).await {
                // Before Redis 7.
                servers::skip(&format!("names of cluster nodes: {error}"));
                return;
            }
        }
        let store = store(&cluster);
        store.ping().await.unwrap();
        let limiter = strict(&store, NEVER_LATE);
        let mut user = User::new(kind);
        user.spend(&limiter, 1).await;
        let slot = cluster.slot_of(&user.tag()).await;
        let to = (cluster.primary_of(slot).await + 1) % 3;
        cluster.move_slot(slot, to).await;
        user.spend_the_rest(&limiter).await;
    }
}

#[tokio::test]
async fn while_a_slot_moves_its_counts_hold_and_its_node_is_not_given_up() {
    let cluster = Cluster::start().await;
    let (store, other) = (store(&cluster), store(&cluster));
    let limiter = strict(&store, NEVER_LATE);
    let mut names = names_in(42..43);
    let mut one = || User::new(&names.next().unwrap());
    let [mut stays, mut goes, mut new] = [one(), one(), one()];
    let mut two = || User::with(&names.next().unwrap(), two_policies(QUOTA));
    let [mut both_stay, mut both_go, mut torn, mut both_new] = [two(), two(), two(), two()];
    for user in [
        &mut stays,
        &mut goes,
        &mut both_stay,
        &mut both_go,
        &mut torn,
    ] {
        user.spend(&limiter, 3).await;
    }
    let to = 1;
    let from = cluster.begin_move(42, to).await;
    let port = cluster.nodes()[to].port().to_string();
    for key in cluster.nodes()[from].keys().await {
        let go = [&goes, &both_go]
            .iter()
            .any(|user| key.contains(&user.tag()));
        if go || key.contains(&torn.tag()) && key.contains("tight") {
            let migrate = ["MIGRATE", "127.0.0.1", &port, &key, "0", "10000"];
            cluster.nodes()[from].command(&migrate).await;
        }
    }

    for user in [
        &mut stays,
        &mut goes,
        &mut new,
        &mut both_stay,
        &mut both_go,
    ] {
        // To be told that a script is not known uses up the leave to ask.
        cluster.nodes()[to].command(&["SCRIPT", "FLUSH"]).await;
        user.spend(&limiter, 3).await;
    }
    // No node has all keys of these. It may be long until one has, if the move was abandoned.
    for user in [&mut torn, &mut both_new] {
        for _ in 0..5 {
            assert!(user.ask(&limiter).await.is_degraded());
        }
        let check = Check::new(&user.identity, &user.limits);
        let error = store.check(&check).wait().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unusable, "{error:?}");
    }
    let mut bystander = User::new(&names_in(0..42).next().unwrap());
    bystander.spend(&limiter, 3).await;

    cluster.move_keys(42, from, to).await;
    cluster.end_move(42, from, to).await;
    let other = strict(&other, NEVER_LATE);
    for mut user in [stays, goes, new, both_stay, both_go, torn, both_new] {
        user.spend(&other, 1).await;
        user.spend_the_rest(&limiter).await;
    }
}

/// Half of the keys have moved when 60 tasks ask about all of them, and new ones, for two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn batches_in_a_moving_slot_fail_no_check() {
    const LIMIT: u32 = 1_000_000;
    let cluster = Cluster::start().await;
    let store = store(&cluster);
    let limits = Limits::from(Quota::fixed_window(LIMIT, 3_650 * DAY));
    let names = names_in(42..43).take(240);
    let users: Vec<_> = names
        .map(|name| (Identity::user(&name), AtomicU32::new(0)))
        .collect();
    let ask = async |(identity, charged): &(Identity, AtomicU32)| {
        let mut check = Check::new(identity, &limits);
        check.time_left = NEVER_LATE;
        let verdict = store.check(&check).wait().await;
        let verdict = verdict.expect("each key is at one of two nodes");
        assert!(verdict.is_allowed());
        charged.fetch_add(1, Ordering::Relaxed);
    };
    join_all(users[..40].iter().map(ask)).await;
    let from = cluster.begin_move(42, 1).await;
    let port = cluster.nodes()[1].port().to_string();
    let keys = cluster.nodes()[from].keys().await;
    for key in keys.iter().filter(|key| key.contains(":{user:")).step_by(2) {
        let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "10000"];
        cluster.nodes()[from].command(&migrate).await;
    }
    join_all(users[..40].iter().map(ask)).await;
    let began = std::time::Instant::now();
    let tasks = (0..60).map(|task| {
        let (users, ask) = (&users, &ask);
        async move {
            let mut index = task;
            while began.elapsed() < Duration::from_secs(2) {
                ask(&users[index % users.len()]).await;
                index += 7;
                sleep(Duration::from_millis(5)).await;
            }
        }
    });
    join_all(tasks).await;
    let node = &cluster.nodes()[from];
    let refused = errors(node, "TRYAGAIN").await + errors(node, "ASK").await;
    assert!(refused > 0, "nothing was refused");
    let limiter = strict(&store, NEVER_LATE);
    for (identity, charged) in &users {
        let left = limiter.peek(&Check::new(identity, &limits)).await;
        let charged = charged.load(Ordering::Relaxed);
        assert_eq!(left.remaining(), LIMIT - charged, "{identity}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_exactly_while_slots_are_moved_under_load() {
    const SLOTS: u32 = 5;
    const MOVES: u32 = 4;
    // More than is asked for while slots move, even if that takes long.
    const LIMIT: u32 = 4_000;
    let cluster = Cluster::start().await;
    let stores = [store(&cluster), store(&cluster)];
    let limiters = stores.map(|store| strict(&store, NEVER_LATE));
    let quota = Quota::fixed_window(LIMIT, 3_650 * DAY);
    let limits = [quota.into(), two_policies(quota)];
    let identities: Vec<_> = (0..SLOTS).map(|i| Identity::user(&i.to_string())).collect();
    // Of each identity under each of the limits.
    let admitted: Vec<_> = (0..2 * SLOTS).map(|_| AtomicU32::new(0)).collect();
    let shared = Arc::new((identities, limits, admitted, AtomicBool::new(true)));

    let mut tasks = JoinSet::new();
    for task in 0..20 {
        let (limiter, shared) = (limiters[task % 2].clone(), shared.clone());
        let count = task % (2 * SLOTS as usize);
        tasks.spawn(async move {
            let (identities, limits, admitted, moving) = &*shared;
            let limits = &limits[count % 2];
            let check = Check::new(&identities[count / 2], limits);
            loop {
                let decision = limiter.check(&check).await;
                // A new count of several policies waits for the end of the move.
                let one = limits.policies().len() == 1;
                assert!(!one || !decision.is_degraded(), "{}", check.identity);
                admitted[count].fetch_add(u32::from(decision.is_allowed()), Ordering::Relaxed);
                if moving.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(10)).await;
                } else if !decision.is_degraded() && !decision.is_allowed() {
                    break;
                }
            }
        });
    }
    for round in 0..MOVES {
        for identity in &shared.0 {
            let slot = cluster.slot_of(&identity.to_string()).await;
            let to = (cluster.primary_of(slot).await + 1 + round as usize % 2) % 3;
            cluster.move_slot(slot, to).await;
        }
    }
    let spent: Vec<_> = shared
        .2
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    shared.3.store(false, Ordering::Relaxed);
    tasks.join_all().await;
    for code in ["MOVED", "ASK"] {
        let told = join_all(cluster.nodes().iter().map(|node| errors(node, code))).await;
        assert!(told.iter().sum::<u64>() > 0, "nobody was told {code}");
    }
    for (count, spent) in shared.2.iter().zip(spent) {
        assert!((1..LIMIT).contains(&spent), "{spent} while slots moved");
        assert_eq!(count.load(Ordering::Relaxed), LIMIT);
    }
    assert_eq!(cluster.keys_without_ttl().await, [""; 0]);
}
