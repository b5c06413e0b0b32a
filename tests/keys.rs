//! What stands in Redis: keys that an operator can read, values of the documented form, and a time
//! to live on every one of them, neither too short nor too long.

#[path = "support/redis/mod.rs"]
mod servers;

use std::time::Duration;

use servers::Server;
use tollgate::{Check, Identity, Limits, Outcome, Policy, Quota, RedisStore, Scope, Store};

const DAY: Duration = Duration::from_secs(86_400);

fn store(server: &Server) -> RedisStore {
    RedisStore::new(&server.url()).unwrap()
}

async fn done<T>(outcome: Outcome<T>) -> T {
    outcome.wait().await.unwrap()
}

#[tokio::test]
async fn keys_say_whose_counts_they_are() {
    let server = Server::start().await;
    let store = store(&server);
    let address = Identity::ip("203.0.113.7".parse().unwrap());
    let limits = Limits::new([
        Policy::new("burst", Quota::per_second(10).burst(20)),
        Policy::new("daily", Quota::per_day(10_000)),
        Policy::new("hourly", Quota::sliding_window(100, DAY / 24)),
        Policy::new("monthly", Quota::fixed_window(1_000, 30 * DAY)),
    ])
    .unwrap();
    let scope = Scope::new("api").unwrap();
    done(store.check(&Check::new(&address, &limits).scope(&scope))).await;

    let mut keys = server.keys().await;
    keys.sort();
    assert_eq!(
        keys,
        [
            "tollgate:{ip:203.0.113.7}:api:burst:10/1s-burst-20",
            "tollgate:{ip:203.0.113.7}:api:daily:10000/1d",
            "tollgate:{ip:203.0.113.7}:api:hourly:sliding-100/1h",
            "tollgate:{ip:203.0.113.7}:api:monthly:fixed-1000/30d",
        ]
    );
}

#[tokio::test]
async fn key_without_ttl_gets_one_by_the_next_charge() {
    let server = Server::start().await;
    let store = store(&server);
    let alice = Identity::user("alice");
    for quota in [
        Quota::per_hour(100),
        Quota::token_bucket(7, Duration::from_secs(60)),
        Quota::sliding_window(100, DAY),
        Quota::fixed_window(100, DAY),
    ] {
        let limits = Limits::from(quota);
        let check = Check::new(&alice, &limits);
        for _ in 0..3 {
            assert!(done(store.check(&check)).await.is_allowed());
            let [key] = &server.keys().await[..] else {
                panic!("{quota} has one key");
            };
            assert_eq!(server.keys_without_ttl().await, [""; 0], "{quota}");
            server.command(&["PERSIST", key]).await;
        }
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn a_prefix_keeps_applications_apart() {
    let server = Server::start().await;
    let limits = Limits::from(Quota::per_day(1));
    let alice = Identity::user("alice");
    for prefix in ["one", "two"] {
        let store = RedisStore::builder(&server.url()).prefix(prefix).build();
        let verdict = done(store.unwrap().check(&Check::new(&alice, &limits))).await;
        assert!(verdict.is_allowed(), "{prefix} has counts of its own");
    }
    let mut keys = server.keys().await;
    keys.sort();
    assert_eq!(
        keys,
        [
            "one:{user:alice}:default:default:1/1d",
            "two:{user:alice}:default:default:1/1d"
        ]
    );
}

#[tokio::test]
async fn no_value_of_an_identity_reaches_into_another_key_or_chooses_a_slot() {
    let server = Server::start().await;
    let store = store(&server);
    let limits = Limits::from(Quota::per_day(1));
    let values = [
        "a:b",
        "a}:default",
        "{a",
        "*",
        "a b",
        "#0",
        "ü",
        "",
        &"x".repeat(1_000),
    ];
    for value in values {
        let identity = Identity::user(value);
        let verdict = done(store.check(&Check::new(&identity, &limits))).await;
        assert!(verdict.is_allowed(), "`{value}` has a count of its own");
    }
    let keys = server.keys().await;
    assert_eq!(keys.len(), values.len());
    for key in keys {
        let braces = key.matches(['{', '}']).count();
        assert!(key.starts_with("tollgate:{user:") && braces == 2, "{key}");
        assert!(key.len() < 128 && !key.contains(' '), "{key}");
    }
}

/// A key's value, and the millisecond in which it ends.
async fn look(server: &Server, key: &str) -> (String, u64) {
    let script = "local before = redis.call('TIME') \
         local value, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]) \
         local after = redis.call('TIME') \
         local function milliseconds(time) return time[1] * 1000 + math.floor(time[2] / 1000) end \
         return {milliseconds(before), value, left, milliseconds(after)}";
    loop {
        let (before, value, left, after): (u64, String, u64, u64) =
            server.ask(&["EVAL", script, "1", key]).await;
        // A server that was held up meanwhile says what is left of another moment.
        if before == after {
            return (value, before + left);
        }
    }
}

#[tokio::test]
async fn a_key_lives_until_its_count_means_nothing_any_more_and_little_longer() {
    let server = Server::start().await;
    let store = store(&server);
    let an_eighth = (3_650 * DAY / 8).as_millis() as u64;
    // And for how many milliseconds longer it may live.
    let quotas = [
        // Where a token takes a fraction of a microsecond, and where it takes years.
        (Quota::per_second(3), 1),
        (Quota::per_second(4_000_000), 1),
        (Quota::token_bucket(1, 3_650 * DAY), an_eighth),
        (Quota::sliding_window(10, DAY), 1),
        (Quota::fixed_window(10, DAY), 1),
    ];
    for (quota, at_most_longer) in quotas {
        let (identity, limits) = (Identity::user("alice"), Limits::from(quota));
        // So much that it lasts for a while, of any quota.
        let check = Check::new(&identity, &limits).cost(quota.capacity());
        let verdict = done(store.check(&check)).await;
        assert!(verdict.is_allowed());
        let (state, _) = quota.step(verdict.states()[0], verdict.now(), check.cost);

        let text = quota.to_string().replace(' ', "-");
        let key = format!("tollgate:{{user:alice}}:default:default:{text}");
        let (value, ends) = look(&server, &key).await;
        let until: u64 = value.split(':').next().unwrap().parse().unwrap();
        assert_eq!(until, state.words()[0], "{quota}: {value}");
        // In the first millisecond in which it does not count any more, or so much after that.
        let counts_until = until.div_ceil(1_000);
        assert!(
            (counts_until..=counts_until + at_most_longer).contains(&ends),
            "{quota}: ends at {ends}, counts until {counts_until}"
        );
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn a_key_that_is_charged_again_never_ends_before_its_count() {
    let server = Server::start().await;
    let store = store(&server);
    // Where the end of a key is moved seldom, often, and each time.
    for quota in [
        Quota::per_day(10_000),
        Quota::per_minute(20),
        Quota::per_minute(5),
    ] {
        let (identity, limits) = (Identity::user("alice"), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        let day = Policy::new("day", Quota::fixed_window(1_000_000, DAY));
        let both = Limits::new([limits.policies()[0].clone(), day]).unwrap();
        let text = quota.to_string().replace(' ', "-");
        let key = format!("tollgate:{{user:alice}}:default:default:{text}");
        let mut ends_of_key = Vec::new();
        for charge in 1..=quota.capacity().min(2_000) {
            // The script writes a count of several policies by another path.
            let check = match charge % 3 {
                0 => Check::new(&identity, &both),
                _ => check,
            };
            assert!(done(store.check(&check)).await.is_allowed());
            let (until, ends) = look(&server, &key).await;
            let until: u64 = until.parse().unwrap();
            assert!(until.div_ceil(1_000) <= ends, "{quota}: ends at {ends}");
            ends_of_key.push(ends);
        }
        ends_of_key.dedup();
        assert!(ends_of_key.len() > 2, "{quota}: {ends_of_key:?}");
    }
}

#[tokio::test]
async fn reset_look_and_denial_leave_no_key() {
    let server = Server::start().await;
    let store = store(&server);
    let alice = Identity::user("alice");
    for quota in [
        Quota::per_day(10),
        Quota::sliding_window(10, DAY),
        Quota::fixed_window(10, DAY),
    ] {
        let limits = Limits::from(quota);
        let check = Check::new(&alice, &limits).cost(4);
        done(store.check(&check)).await;
        done(store.reset(&check)).await;
        assert_eq!(server.keys().await, [""; 0], "{quota}: reset");
        done(store.check(&check.cost(0))).await;
        done(store.check(&check.cost(11))).await;
        assert_eq!(
            server.keys().await,
            [""; 0],
            "{quota}: a look, and a denial"
        );
    }
}
