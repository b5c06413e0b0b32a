//! Limits that are set at run time, in large numbers: a change costs the same among many as among few,
//! and replicas notice what Redis has lost.

use std::collections::BTreeSet;

use hyper::{Method, StatusCode};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline};
use serde_json::json;

use crate::admin::{admin, get, limit, list, put, start, subjects, until_limit};
use crate::support::client::json as body;
use crate::support::{Replica, Server, Wait};

const KEYS: [&str; 3] = [
    "tollgate:{limits}",
    "tollgate:{limits}:changes",
    "tollgate:{limits}:history",
];

/// As in the server: how many writes the history keeps.
const HISTORY: usize = 10_000;

/// The server's own write of a limit, or of a deletion if the limit is empty.
fn write(subject: &str, limit: &str, random: usize) -> Cmd {
    let limits = match limit {
        "" => String::new(),
        limit => json!({ "default": limit }).to_string(),
    };
    let mut command = redis::cmd("EVAL");
    command
        .arg(include_str!("../../src/limits/write.lua"))
        .arg(KEYS.len())
        .arg(&KEYS)
        .arg(subject)
        .arg(limits)
        .arg("none")
        .arg("")
        .arg(format!("test{random}"))
        .arg(HISTORY);
    command
}

async fn write_many(connection: &mut MultiplexedConnection, writes: impl Iterator<Item = Cmd>) {
    let writes: Vec<_> = writes.collect();
    for some in writes.chunks(1_000) {
        let mut pipeline = Pipeline::new();
        for write in some {
            pipeline.add_command(write.clone()).ignore();
        }
        pipeline.query_async::<()>(connection).await.unwrap();
    }
}

/// Sets the limits of the keys `k0`, `k1` and so on of the tenant `acme`.
async fn fill(redis: &Server, count: usize) {
    let mut connection = redis.connect().await.unwrap();
    let writes = (0..count).map(|key| write(&format!("keys/acme/k{key}"), "7/1d", key));
    write_many(&mut connection, writes).await;
}

async fn count_of(server: &Replica, prefix: &str) -> usize {
    let mut count = 0;
    let mut query = format!("prefix={prefix}");
    loop {
        let page = list(server, &query).await;
        count += subjects(&page).len();
        let Some(next) = page["next"].as_str() else {
            return count;
        };
        query = format!("prefix={prefix}&after={next}");
    }
}

async fn until_count(server: &Replica, prefix: &str, expected: usize) {
    let wait = Wait::until(format!("there are {expected} limits of {prefix}"));
    while count_of(server, prefix).await != expected {
        wait.sleep().await;
    }
}

/// Bytes that Redis has sent, to all clients.
async fn bytes_sent(redis: &Server) -> u64 {
    let statistics: String = redis.query(&["INFO", "stats"]).await;
    let mut lines = statistics.lines();
    let bytes = lines.find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    bytes.unwrap().parse().unwrap()
}

/// One PUT, until another replica has its result: commands, by name, and bytes that Redis sent.
async fn cost_of_a_put(redis: &Server, servers: &[Replica; 2], key: &str) -> ([u64; 3], u64) {
    let calls = async || {
        let eval = redis.calls("eval").await;
        [
            eval,
            redis.calls("zrange").await,
            redis.calls("hmget").await,
        ]
    };
    let (calls_before, bytes_before) = (calls().await, bytes_sent(redis).await);
    let set = put(
        &servers[0],
        &format!("keys/acme/{key}"),
        &json!("9/1d"),
        &[],
    )
    .await;
    assert_eq!(set.status(), StatusCode::OK);
    // The list asks the replica and not Redis.
    until_count(&servers[1], &format!("keys/acme/{key}"), 1).await;
    let bytes = bytes_sent(redis).await - bytes_before;
    let after = calls().await;
    (
        [0, 1, 2].map(|index| after[index] - calls_before[index]),
        bytes,
    )
}

#[tokio::test]
async fn put_costs_the_same_among_many() {
    let redis = Server::start().await;
    let servers = [(); 2].map(|()| start(&redis.url()));
    let (calls_among_none, _) = cost_of_a_put(&redis, &servers, "first").await;
    assert_eq!(
        calls_among_none,
        [2, 1, 1],
        "a write, and one page for the other replica"
    );
    fill(&redis, 5_000).await;
    for server in &servers {
        until_count(server, "keys/acme/k", 5_000).await;
    }
    let (calls, bytes) = cost_of_a_put(&redis, &servers, "last").await;
    assert_eq!(calls, calls_among_none);
    // All 5,000 would be more than 250,000.
    assert!(bytes < 50_000, "{bytes}");
    assert_eq!(redis.calls("hgetall").await, 0);
}

#[tokio::test]
async fn first_read_is_complete() {
    let redis = Server::start().await;
    // Several pages, the last of which is full.
    fill(&redis, 3_000).await;
    let server = start(&redis.url());
    assert_eq!(count_of(&server, "keys/acme/k").await, 3_000);
    assert_eq!(redis.calls("hmget").await, 3);
    let metrics = crate::support::client::get(server.http(), "/metrics").await;
    let gauge = "tollgate_server_runtime_limits 3000";
    assert!(metrics.body().contains(gauge), "{}", metrics.body());
}

/// Replicas read pages of another replica's changes while they take changes themselves.
#[tokio::test]
async fn read_never_reverts_a_newer_put() {
    let redis = Server::start().await;
    let servers = [(); 2].map(|()| start(&redis.url()));
    let mut connection = redis.connect().await.unwrap();
    for round in 1..=30 {
        let others = (0..200).map(|key| write(&format!("keys/acme/k{key}"), "7/1d", key));
        let changes = async {
            for (server, more) in servers.iter().zip([0, 100]) {
                let key = format!("own{more}");
                let expected = round + more;
                let limit_now = json!(format!("{expected}/1d"));
                put(server, &format!("keys/acme/{key}"), &limit_now, &[]).await;
                for _ in 0..3 {
                    assert_eq!(limit(server, &key).await, json!(expected));
                }
            }
        };
        tokio::join!(changes, write_many(&mut connection, others));
    }
    for server in &servers {
        until_limit(server, "own0", 30).await;
        until_limit(server, "own100", 130).await;
        until_limit(server, "k199", 7).await;
    }
}

/// A replica that was away for longer than the history reads everything, and drops a limit of which
/// Redis no longer knows that it was deleted.
#[tokio::test]
async fn history_is_bounded_and_outlived() {
    let redis = Server::start().await;
    let server = start(&redis.url());
    let mut connection = redis.connect().await.unwrap();
    put(&server, "keys/acme/deleted", &json!("8/1d"), &[]).await;
    put(&server, "keys/acme/kept", &json!("9/1d"), &[]).await;
    assert_eq!(limit(&server, "deleted").await, json!(8));
    server.signal("STOP");
    let delete = write("keys/acme/deleted", "", 0);
    // Each key is set and deleted, and leaves nothing but history.
    let others = (0..HISTORY).map(|index| {
        let limit = if index % 2 == 0 { "7/1d" } else { "" };
        write(&format!("keys/acme/k{}", index / 2), limit, index)
    });
    write_many(&mut connection, [delete].into_iter().chain(others)).await;
    let size = async |command: &str, key: &str| redis.query::<usize>(&[command, key]).await;
    assert_eq!(size("HLEN", KEYS[2]).await, HISTORY);
    // The deleted keys that are in the history, and the limit that is still set.
    assert_eq!(size("ZCARD", KEYS[1]).await, HISTORY / 2 + 1);
    assert_eq!(size("HLEN", KEYS[0]).await, 2, "the limit and the revision");
    let score: Option<f64> = redis.query(&["ZSCORE", KEYS[1], "keys/acme/deleted"]).await;
    assert_eq!(score, None);

    server.signal("CONT");
    until_limit(&server, "deleted", 20).await;
    assert_eq!(limit(&server, "kept").await, json!(9));
    assert_eq!(
        count_of(&server, "keys/acme/").await,
        2,
        "with the configured one"
    );
    // A deletion in the history reaches replicas as a change.
    put(&server, "keys/acme/kept", &json!("10/1d"), &[]).await;
    let wait = Wait::until("the revision is polled");
    let before = redis.calls("hget").await;
    while redis.calls("hget").await < before + 2 {
        wait.sleep().await;
    }
    let pages = redis.calls("zrange").await;
    write_many(
        &mut connection,
        [write("keys/acme/kept", "", 1)].into_iter(),
    )
    .await;
    until_limit(&server, "kept", 20).await;
    assert_eq!(redis.calls("zrange").await, pages + 1);
}

/// The keys of the limits, as Redis dumps them.
async fn dump(redis: &Server) -> Vec<Vec<u8>> {
    let mut dumps = Vec::new();
    for key in KEYS {
        dumps.push(redis.query(&["DUMP", key]).await);
    }
    dumps
}

/// Restores a backup, and has other writes follow before any replica can look.
async fn restore(redis: &Server, dumps: &[Vec<u8>], writes: &[Cmd]) {
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for (key, dump) in KEYS.iter().zip(dumps) {
        let restore = pipeline.cmd("RESTORE").arg(key).arg(0).arg(dump);
        restore.arg("REPLACE").ignore();
    }
    for write in writes {
        pipeline.add_command(write.clone()).ignore();
    }
    let mut connection = redis.connect().await.unwrap();
    pipeline.query_async::<()>(&mut connection).await.unwrap();
}

/// A backup, or a replica of Redis that had not received the last writes. The numbers of the lost
/// writes are used again.
#[tokio::test]
async fn replicas_notice_that_redis_lost_writes() {
    let redis = Server::start().await;
    let servers = [(); 2].map(|()| start(&redis.url()));
    for (subject, limit) in [("tiers/pro", "30/1d"), ("keys/acme/a", "31/1d")] {
        put(&servers[0], subject, &json!(limit), &[]).await;
    }
    let backup = dump(&redis).await;
    // These are lost.
    for (subject, limit) in [("tiers/pro", "40/1d"), ("keys/acme/b", "41/1d")] {
        put(&servers[0], subject, &json!(limit), &[]).await;
    }
    for server in &servers {
        until_limit(server, "b", 41).await;
    }
    let others = [1, 2, 3].map(|index| write("keys/acme/c", &format!("5{index}/1d"), index));
    restore(&redis, &backup, &others).await;
    for server in &servers {
        until_limit(server, "c", 53).await;
        assert_eq!(
            limit(server, "b").await,
            json!(30),
            "neither lost limit is in force"
        );
        assert_eq!(limit(server, "a").await, json!(31));
    }
    // The replica that takes a write first notices by that write.
    restore(&redis, &backup, &[]).await;
    put(&servers[0], "keys/acme/d", &json!("60/1d"), &[]).await;
    let page = list(&servers[0], "prefix=keys/acme/").await;
    let expected = ["keys/acme/a", "keys/acme/d", "keys/acme/vip"];
    assert_eq!(subjects(&page), expected);
    until_limit(&servers[1], "d", 60).await;
    assert_eq!(
        subjects(&list(&servers[1], "prefix=keys/acme/").await),
        expected
    );
}

#[tokio::test]
async fn replicas_notice_that_redis_was_emptied() {
    let redis = Server::start().await;
    let servers = [(); 2].map(|()| start(&redis.url()));
    // All keys, and each of them alone. Without the limits themselves all are lost.
    for keys in [&KEYS[..], &KEYS[..1]] {
        put(&servers[0], "tiers/pro", &json!("30/1d"), &[]).await;
        put(&servers[0], "keys/acme/a", &json!("31/1d"), &[]).await;
        for server in &servers {
            until_limit(server, "a", 31).await;
        }
        redis.command(&[&["DEL"], keys].concat()).await;
        for server in &servers {
            until_limit(server, "a", 20).await;
            assert_eq!(count_of(server, "tiers/").await, 1);
        }
        put(&servers[1], "keys/acme/b", &json!("32/1d"), &[]).await;
        for server in &servers {
            until_limit(server, "b", 32).await;
            assert_eq!(limit(server, "a").await, json!(20));
        }
        redis.command(&["FLUSHALL"]).await;
        for server in &servers {
            until_limit(server, "b", 20).await;
        }
    }
    // Without the history nothing is lost, even if more than a page is read anew.
    fill(&redis, 2_500).await;
    until_count(&servers[0], "keys/acme/k", 2_500).await;
    redis.command(&["DEL", KEYS[2]]).await;
    put(&servers[1], "keys/acme/b", &json!("33/1d"), &[]).await;
    until_limit(&servers[0], "b", 33).await;
    assert_eq!(count_of(&servers[0], "keys/acme/k").await, 2_500);
}

#[tokio::test]
async fn unreadable_data_is_skipped_and_logged_once() {
    let redis = Server::start().await;
    let first = start(&redis.url());
    put(&first, "keys/acme/a", &json!("30/1d"), &[]).await;
    put(&first, "keys/acme/b", &json!("31/1d"), &[]).await;
    let mut connection = redis.connect().await.unwrap();
    let mut foreign = redis::pipe();
    foreign.atomic();
    let subjects_and_values: [(&[u8], &[u8]); 4] = [
        (b"keys/acme/b", b"no version or limits"),
        (b"tiers/\xff\xfe", b"2-x {}"),
        (b"teams/a", b"2-x {\"default\":\"1/1d\"}"),
        (b"tenants/acme", b"\xff\xff"),
    ];
    for (subject, value) in subjects_and_values {
        foreign.hset(KEYS[0], subject, value).ignore();
        foreign.zadd(KEYS[1], subject, 2).ignore();
    }
    foreign.query_async::<()>(&mut connection).await.unwrap();
    // A subject without limits in the hash is a deleted one.
    redis.command(&["ZADD", KEYS[1], "1", "tiers/pro"]).await;

    let second = start(&redis.url());
    let skipped = |server: &Replica| {
        server
            .log()
            .matches("skipped an unreadable override")
            .count()
    };
    let wait = Wait::until("the second replica has logged each of them");
    while skipped(&second) < 4 {
        wait.sleep().await;
    }
    for server in [&first, &second] {
        put(server, "keys/acme/c", &json!("32/1d"), &[]).await;
        assert_eq!(limit(server, "a").await, json!(30));
    }
    assert_eq!(limit(&second, "b").await, json!(20), "as configured");
    until_limit(&first, "c", 32).await;
    // Other changes read none of it again.
    for limit in ["40/1d", "41/1d"] {
        put(&first, "keys/acme/a", &json!(limit), &[]).await;
    }
    until_limit(&second, "a", 41).await;
    assert_eq!((skipped(&first), skipped(&second)), (0, 4));
    // The API repairs it.
    put(&second, "keys/acme/b", &json!("33/1d"), &[]).await;
    until_limit(&first, "b", 33).await;

    // A revision that cannot be counted on refuses writes, and everything known goes on.
    redis
        .command(&["HSET", KEYS[0], "revision", "latest"])
        .await;
    let refused = put(&first, "keys/acme/a", &json!("50/1d"), &[]).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    first.until_it_says("is not <number>-<random>").await;
    for server in [&first, &second] {
        assert_eq!(limit(server, "a").await, json!(41));
        assert_eq!(
            body(&get(server, "keys/acme/b").await)["limits"],
            json!({"default": "33/1d"})
        );
    }
}

#[tokio::test]
async fn keys_share_a_slot_of_a_cluster() {
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
    ];
    let redis = Server::start_with(&options).await;
    redis.serve_all_slots().await;
    let mut slots = BTreeSet::new();
    for key in KEYS {
        slots.insert(redis.query::<u16>(&["CLUSTER", "KEYSLOT", key]).await);
    }
    assert_eq!(slots.len(), 1);
    let servers = [(); 2].map(|()| start(&redis.url()));
    put(&servers[0], "tiers/pro", &json!("30/1d"), &[]).await;
    until_limit(&servers[1], "a", 30).await;
    let deleted = admin(&servers[1], Method::DELETE, "/limits/tiers/pro", &[], "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    until_limit(&servers[0], "a", 20).await;
}
