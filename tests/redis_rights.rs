//! The store needs exactly the rights in `examples/server/deploy/redis-rights.txt`, and the
//! documentation shows the same rights.

#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod user;

use futures_util::future::join_all;
use redis_limiter::{combined_limits, quotas};
use servers::rights::{assert_none_denied, create_user, rights, user_url};
use servers::{Cluster, Sentinels, Server};
use tollgate::{Check, Identity, Limits, Quota, RedisStore, Store, StoreErrorKind};
use user::names_in_slots;

/// Returns the rights of each user `tollgate` that a document creates.
fn documented(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines();
    let users =
        lines.filter_map(|line| line.strip_prefix("ACL SETUSER tollgate reset on >secret "));
    let rights = users.map(|rule| rule.strip_prefix("~tollgate:* ").expect("the key prefix"));
    rights.map(|rights| rights.split(' ').collect()).collect()
}

#[test]
fn documented_rights_equal_the_listed_ones() {
    let readme = documented(include_str!("../README.md"));
    assert_eq!(readme, [rights(&["counts"])]);
    let guide = include_str!("../src/guide/redis.md");
    let expected = [
        &["counts"][..],
        &["counts", "database"],
        &["counts", "cluster"],
        &["counts", "primary"],
    ];
    assert_eq!(documented(guide), expected.map(rights));
    let sentinel = rights(&["sentinel"]).join(" ");
    let sentinel = format!("ACL SETUSER discovery reset on >secret {sentinel}\n");
    assert!(guide.contains(&sentinel), "{sentinel}");
}

/// Returns limits of each algorithm alone, and of all of them together.
fn all_limits() -> Vec<Limits> {
    let [bucket, sliding, fixed] = quotas(10);
    // The script has separate paths for tokens of whole microseconds and of fractions.
    let whole = Quota::per_day(10);
    let mut limits = [whole, bucket, sliding, fixed].map(Limits::from).to_vec();
    limits.push(combined_limits(10));
    limits
}

/// Spends and resets the quota of a user under all limits.
async fn use_all_quotas(store: &RedisStore, user: &Identity) {
    for limits in all_limits() {
        let check = Check::new(user, &limits);
        let charge = async |cost| store.check(&check.cost(cost)).wait().await.unwrap();
        for _ in 0..10 {
            assert!(charge(1).await.is_allowed(), "{limits:?}");
        }
        assert!(!charge(1).await.is_allowed(), "{limits:?}");
        charge(0).await;
        store.reset(&check).wait().await.unwrap();
        assert!(charge(10).await.is_allowed(), "{limits:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_rights_are_enough_for_a_server() {
    for (database, protocol) in [("", 2), ("", 3), ("/5", 2), ("/5", 3)] {
        let server = Server::start().await;
        match database {
            "" => create_user(&server, &["counts"]).await,
            _ => create_user(&server, &["counts", "database"]).await,
        }
        let url = format!("{}{database}?protocol=resp{protocol}", user_url(&server));
        let store = RedisStore::new(&url).unwrap();
        store.ping().await.unwrap();
        let users: Vec<_> = (0..20)
            .map(|user| Identity::user(&user.to_string()))
            .collect();
        // The script has separate paths for batches and single checks.
        join_all(users.iter().map(|user| use_all_quotas(&store, user))).await;
        use_all_quotas(&store, &Identity::user("alone")).await;
        server.command(&["SCRIPT", "FLUSH"]).await;
        let limits = combined_limits(10);
        let check = Check::new(&users[0], &limits);
        store.check(&check.cost(0)).wait().await.unwrap();

        // A key of another type.
        let mut keys = redis::pipe();
        if let Some(database) = database.strip_prefix('/') {
            keys.cmd("SELECT").arg(database).ignore();
        }
        let tag = format!("tollgate:{{{}}}:default:fixed:*", users[0]);
        let mut connection = server.connect().await.unwrap();
        let (found,): (Vec<String>,) = keys
            .cmd("KEYS")
            .arg(tag)
            .query_async(&mut connection)
            .await
            .unwrap();
        let [key] = &found[..] else {
            panic!("not one key: {found:?}");
        };
        let mut foreign = redis::pipe();
        foreign.del(key).hset(key, "a", "b");
        let () = foreign.query_async(&mut connection).await.unwrap();
        let error = store.check(&check).wait().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unusable, "{error:?}");

        assert_none_denied(&server).await;
        for right in rights(&["counts"]) {
            let command = right.trim_start_matches('+');
            assert!(server.calls(command).await > 0, "{command} is never used");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_rights_are_enough_for_a_cluster() {
    let cluster = Cluster::start().await;
    for node in cluster.nodes() {
        create_user(node, &["counts", "cluster"]).await;
    }
    let urls: Vec<_> = cluster.nodes().iter().map(user_url).collect();
    let store = RedisStore::cluster(urls.iter().map(String::as_str))
        .build()
        .unwrap();
    store.ping().await.unwrap();
    // A user in a slot of each primary, and one in a slot that is being moved.
    let slots = [0..5_000, 6_000..10_000, 11_000..16_000, 42..43];
    let users = slots.map(|slots| Identity::user(&names_in_slots(slots).next().unwrap()));
    cluster.start_move(42, 1).await;
    let limits = Limits::from(Quota::per_day(10));
    for user in &users {
        let check = Check::new(user, &limits);
        for _ in 0..10 {
            let answer = store.check(&check).wait().await.unwrap();
            assert!(answer.is_allowed(), "{user}");
        }
        store.reset(&check).wait().await.unwrap();
    }
    let nodes = cluster.nodes();
    let asking = join_all(nodes.iter().map(|node| node.calls("asking"))).await;
    assert!(
        asking.iter().sum::<u64>() > 0,
        "no check was sent with ASKING"
    );
    join_all(nodes.iter().map(assert_none_denied)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_rights_are_enough_behind_sentinels() {
    let sentinels = Sentinels::start().await;
    for node in sentinels.nodes() {
        create_user(node, &["counts", "primary"]).await;
    }
    for sentinel in sentinels.sentinels() {
        create_user(sentinel, &["sentinel"]).await;
    }
    let urls: Vec<_> = sentinels.sentinels().iter().map(user_url).collect();
    let urls = urls.iter().map(String::as_str);
    let store = RedisStore::sentinel(urls, sentinels.service_name())
        .username("tollgate")
        .password("secret")
        .build()
        .unwrap();
    store.ping().await.unwrap();
    use_all_quotas(&store, &Identity::user("alice")).await;
    let servers = sentinels.nodes().iter().chain(sentinels.sentinels());
    join_all(servers.map(assert_none_denied)).await;
}
