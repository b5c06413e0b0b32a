//! Overrides, the limits that are set at run time, as Redis stores them: a change costs the same
//! among many overrides as among few. Servers notice lost data, and skip unreadable data.

use std::collections::BTreeSet;

use hyper::StatusCode;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline};
use serde_json::json;

use crate::support::admin::{
    PRO_LIMIT, delete, get, limit, list, put, start_with_redis, subjects, wait_for_limit,
};
use crate::support::http::json_body;
use crate::support::{Redis, Server, Wait, http};

/// The server's keys in Redis, which `write.lua` describes.
const KEYS: [&str; 3] = [
    "tollgate:{limits}",
    "tollgate:{limits}:changes",
    "tollgate:{limits}:history",
];

/// The number of writes that the history keeps, as in the server.
const HISTORY: usize = 10_000;

/// Returns a call of the server's script that sets a limit, or deletes it if `limit` is empty.
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

/// Executes the writes in pipelines of 1,000.
async fn write_many(connection: &mut MultiplexedConnection, writes: impl Iterator<Item = Cmd>) {
    let writes: Vec<_> = writes.collect();
    for batch in writes.chunks(1_000) {
        let mut pipeline = Pipeline::new();
        for write in batch {
            pipeline.add_command(write.clone()).ignore();
        }
        pipeline.query_async::<()>(connection).await.unwrap();
    }
}

/// Sets the limits of this number of keys of the tenant `acme`: `k0`, `k1` and so on.
async fn fill(redis: &Redis, count: usize) {
    let mut connection = redis.connect().await.unwrap();
    let writes = (0..count).map(|key| write(&format!("keys/acme/k{key}"), "7/1d", key));
    write_many(&mut connection, writes).await;
}

/// Returns the number of limits that the server lists for a prefix of subjects.
async fn count_limits(server: &Server, prefix: &str) -> usize {
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

async fn wait_for_count(server: &Server, prefix: &str, expected: usize) {
    let wait = Wait::until(format!("{expected} limits begin with {prefix}"));
    while count_limits(server, prefix).await != expected {
        wait.sleep().await;
    }
}

/// Returns the number of bytes that Redis has sent to all clients.
async fn bytes_sent(redis: &Redis) -> u64 {
    let bytes = redis.statistic("stats", "total_net_output_bytes:").await;
    bytes.expect("Redis counts the bytes")
}

/// Returns the number of scripts that Redis has run, of reads of changed subjects, and of reads of
/// their limits.
async fn calls(redis: &Redis) -> [u64; 3] {
    [
        redis.calls("eval").await,
        redis.calls("zrange").await,
        redis.calls("hmget").await,
    ]
}

/// Sets the limit of a key on the first server, and waits until the second one has it. Returns the
/// [`calls`] that this takes, and the bytes that Redis sends.
async fn cost_of_a_put(redis: &Redis, servers: &[Server; 2], key: &str) -> ([u64; 3], u64) {
    let (calls_before, bytes_before) = (calls(redis).await, bytes_sent(redis).await);
    let subject = format!("keys/acme/{key}");
    let set = put(&servers[0], &subject, "9/1d").await;
    assert_eq!(set.status(), StatusCode::OK);
    // The server lists the limits in its memory, and does not ask Redis.
    wait_for_count(&servers[1], &subject, 1).await;
    let bytes = bytes_sent(redis).await - bytes_before;
    let calls_after = calls(redis).await;
    let calls = [0, 1, 2].map(|index| calls_after[index] - calls_before[index]);
    (calls, bytes)
}

#[tokio::test]
async fn put_costs_the_same_among_many_limits() {
    let redis = Redis::start().await;
    let servers = [(); 2].map(|()| start_with_redis(&redis.url()));
    let (calls_among_none, _) = cost_of_a_put(&redis, &servers, "first").await;
    // A script writes the limit, and another script reads a page for the second server.
    assert_eq!(calls_among_none, [2, 1, 1]);
    fill(&redis, 5_000).await;
    for server in &servers {
        wait_for_count(server, "keys/acme/k", 5_000).await;
    }
    let (calls, bytes) = cost_of_a_put(&redis, &servers, "last").await;
    assert_eq!(calls, calls_among_none);
    // All 5,000 limits would take more than 250,000 bytes.
    assert!(bytes < 50_000, "{bytes}");
    assert_eq!(redis.calls("hgetall").await, 0);
}

#[tokio::test]
async fn first_read_loads_every_page() {
    let redis = Redis::start().await;
    // Three full pages.
    fill(&redis, 3_000).await;
    let server = start_with_redis(&redis.url());
    assert_eq!(count_limits(&server, "keys/acme/k").await, 3_000);
    assert_eq!(redis.calls("hmget").await, 3);
    let metrics = http::get(server.http(), "/metrics").await;
    let gauge = "tollgate_server_runtime_limits 3000";
    assert!(metrics.body().contains(gauge), "{}", metrics.body());
}

/// Both servers read pages of other changes while they make changes themselves.
#[tokio::test]
async fn read_never_reverts_a_newer_put() {
    let redis = Redis::start().await;
    let servers = [(); 2].map(|()| start_with_redis(&redis.url()));
    let mut connection = redis.connect().await.unwrap();
    for round in 1..=30 {
        let others = (0..200).map(|key| write(&format!("keys/acme/k{key}"), "7/1d", key));
        let changes = async {
            for (server, more) in servers.iter().zip([0, 100]) {
                let key = format!("own{more}");
                let expected = round + more;
                let subject = format!("keys/acme/{key}");
                put(server, &subject, format!("{expected}/1d")).await;
                for _ in 0..3 {
                    assert_eq!(limit(server, &key).await, expected);
                }
            }
        };
        tokio::join!(changes, write_many(&mut connection, others));
    }
    for server in &servers {
        wait_for_limit(server, "own0", 30).await;
        wait_for_limit(server, "own100", 130).await;
        wait_for_limit(server, "k199", 7).await;
    }
}

/// A server that missed more writes than the history keeps reads all limits. It drops a deleted
/// limit even though the deletion is no longer in the history.
#[tokio::test]
async fn server_behind_the_history_reads_all_limits() {
    let redis = Redis::start().await;
    let server = start_with_redis(&redis.url());
    let mut connection = redis.connect().await.unwrap();
    put(&server, "keys/acme/deleted", "8/1d").await;
    put(&server, "keys/acme/kept", "9/1d").await;
    assert_eq!(limit(&server, "deleted").await, 8);
    server.signal("STOP");
    let delete = write("keys/acme/deleted", "", 0);
    // Each key is set and deleted, and remains only in the history.
    let others = (0..HISTORY).map(|index| {
        let limit = if index % 2 == 0 { "7/1d" } else { "" };
        write(&format!("keys/acme/k{}", index / 2), limit, index)
    });
    write_many(&mut connection, [delete].into_iter().chain(others)).await;
    let size = async |command: &str, key: &str| redis.query::<usize>(&[command, key]).await;
    assert_eq!(size("HLEN", KEYS[2]).await, HISTORY);
    // The deleted subjects in the history, and the subject that still has a limit.
    assert_eq!(size("ZCARD", KEYS[1]).await, HISTORY / 2 + 1);
    assert_eq!(size("HLEN", KEYS[0]).await, 2, "the limit and the revision");
    let score: Option<f64> = redis.query(&["ZSCORE", KEYS[1], "keys/acme/deleted"]).await;
    assert_eq!(score, None);

    server.signal("CONT");
    wait_for_limit(&server, "deleted", PRO_LIMIT).await;
    assert_eq!(limit(&server, "kept").await, 9);
    let count = count_limits(&server, "keys/acme/").await;
    assert_eq!(count, 2, "`kept` and the configured `vip`");
    // A deletion that is in the history reaches the server as a change.
    put(&server, "keys/acme/kept", "10/1d").await;
    let wait = Wait::until("the server has read the revision twice");
    let before = redis.calls("hget").await;
    while redis.calls("hget").await < before + 2 {
        wait.sleep().await;
    }
    let pages = redis.calls("zrange").await;
    let delete = write("keys/acme/kept", "", 1);
    write_many(&mut connection, [delete].into_iter()).await;
    wait_for_limit(&server, "kept", PRO_LIMIT).await;
    assert_eq!(redis.calls("zrange").await, pages + 1);
}

/// Returns a backup of [`KEYS`].
async fn dump(redis: &Redis) -> Vec<Vec<u8>> {
    let mut dumps = Vec::new();
    for key in KEYS {
        dumps.push(redis.query(&["DUMP", key]).await);
    }
    dumps
}

/// Restores a backup and executes the writes in one transaction, so that no server sees the state
/// between them.
async fn restore(redis: &Redis, dumps: &[Vec<u8>], writes: &[Cmd]) {
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

/// Redis loses writes if a backup is restored, or if a replica becomes primary that had not
/// received them. Later writes then reuse the revision numbers of the lost ones.
#[tokio::test]
async fn servers_notice_that_redis_lost_writes() {
    let redis = Redis::start().await;
    let servers = [(); 2].map(|()| start_with_redis(&redis.url()));
    for (subject, limit) in [("tiers/pro", "30/1d"), ("keys/acme/a", "31/1d")] {
        put(&servers[0], subject, limit).await;
    }
    let backup = dump(&redis).await;
    // The restored backup does not have these writes.
    for (subject, limit) in [("tiers/pro", "40/1d"), ("keys/acme/b", "41/1d")] {
        put(&servers[0], subject, limit).await;
    }
    for server in &servers {
        wait_for_limit(server, "b", 41).await;
    }
    let others = [1, 2, 3].map(|index| write("keys/acme/c", &format!("5{index}/1d"), index));
    restore(&redis, &backup, &others).await;
    for server in &servers {
        wait_for_limit(server, "c", 53).await;
        let limit_of_b = limit(server, "b").await;
        assert_eq!(limit_of_b, 30, "neither lost limit is in force");
        assert_eq!(limit(server, "a").await, 31);
    }
    // A server also notices the loss when it makes the first write itself.
    restore(&redis, &backup, &[]).await;
    put(&servers[0], "keys/acme/d", "60/1d").await;
    let page = list(&servers[0], "prefix=keys/acme/").await;
    let expected = ["keys/acme/a", "keys/acme/d", "keys/acme/vip"];
    assert_eq!(subjects(&page), expected);
    wait_for_limit(&servers[1], "d", 60).await;
    let page = list(&servers[1], "prefix=keys/acme/").await;
    assert_eq!(subjects(&page), expected);
}

#[tokio::test]
async fn servers_notice_that_redis_was_emptied() {
    let redis = Redis::start().await;
    let servers = [(); 2].map(|()| start_with_redis(&redis.url()));
    // All three keys are deleted, or only the limits themselves.
    for keys in [&KEYS[..], &KEYS[..1]] {
        put(&servers[0], "tiers/pro", "30/1d").await;
        put(&servers[0], "keys/acme/a", "31/1d").await;
        for server in &servers {
            wait_for_limit(server, "a", 31).await;
        }
        redis.command(&[&["DEL"], keys].concat()).await;
        for server in &servers {
            wait_for_limit(server, "a", PRO_LIMIT).await;
            assert_eq!(count_limits(server, "tiers/").await, 1);
        }
        put(&servers[1], "keys/acme/b", "32/1d").await;
        for server in &servers {
            wait_for_limit(server, "b", 32).await;
            assert_eq!(limit(server, "a").await, PRO_LIMIT);
        }
        redis.command(&["FLUSHALL"]).await;
        for server in &servers {
            wait_for_limit(server, "b", PRO_LIMIT).await;
        }
    }
    // If only the history is deleted, no limit is lost, even though all pages are read again.
    fill(&redis, 2_500).await;
    wait_for_count(&servers[0], "keys/acme/k", 2_500).await;
    redis.command(&["DEL", KEYS[2]]).await;
    put(&servers[1], "keys/acme/b", "33/1d").await;
    wait_for_limit(&servers[0], "b", 33).await;
    assert_eq!(count_limits(&servers[0], "keys/acme/k").await, 2_500);
}

#[tokio::test]
async fn unreadable_data_is_skipped_and_logged_once() {
    let redis = Redis::start().await;
    let first = start_with_redis(&redis.url());
    put(&first, "keys/acme/a", "30/1d").await;
    put(&first, "keys/acme/b", "31/1d").await;
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
    // A changed subject that has no limits is a deleted one.
    redis.command(&["ZADD", KEYS[1], "1", "tiers/pro"]).await;

    let second = start_with_redis(&redis.url());
    const SKIPPED: &str = "skipped an unreadable override";
    let skipped = |server: &Server| server.log().matches(SKIPPED).count();
    second.wait_for_log_times(SKIPPED, 4).await;
    for server in [&first, &second] {
        put(server, "keys/acme/c", "32/1d").await;
        assert_eq!(limit(server, "a").await, 30);
    }
    assert_eq!(limit(&second, "b").await, PRO_LIMIT, "as configured");
    wait_for_limit(&first, "c", 32).await;
    // Other changes do not make the server read the unreadable values again.
    for limit in ["40/1d", "41/1d"] {
        put(&first, "keys/acme/a", limit).await;
    }
    wait_for_limit(&second, "a", 41).await;
    assert_eq!((skipped(&first), skipped(&second)), (0, 4));
    // A write through the API replaces an unreadable value.
    put(&second, "keys/acme/b", "33/1d").await;
    wait_for_limit(&first, "b", 33).await;

    // With an unreadable revision, writes fail, and the known limits stay in force.
    redis
        .command(&["HSET", KEYS[0], "revision", "latest"])
        .await;
    let refused = put(&first, "keys/acme/a", "50/1d").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    first.wait_for_log("is not <number>-<random>").await;
    for server in [&first, &second] {
        assert_eq!(limit(server, "a").await, 41);
        let item = json_body(&get(server, "keys/acme/b").await);
        assert_eq!(item["limits"], json!({"default": "33/1d"}));
    }
}

#[tokio::test]
async fn keys_share_one_cluster_slot() {
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
    ];
    let redis = Redis::start_with(&options).await;
    redis.serve_all_slots().await;
    let mut slots = BTreeSet::new();
    for key in KEYS {
        slots.insert(redis.query::<u16>(&["CLUSTER", "KEYSLOT", key]).await);
    }
    assert_eq!(slots.len(), 1);
    let servers = [(); 2].map(|()| start_with_redis(&redis.url()));
    put(&servers[0], "tiers/pro", "30/1d").await;
    wait_for_limit(&servers[1], "a", 30).await;
    let deleted = delete(&servers[1], "tiers/pro").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    wait_for_limit(&servers[0], "a", PRO_LIMIT).await;
}
