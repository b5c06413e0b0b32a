//! The keys in Redis are readable for an operator, have values of the documented form, and expire when
//! their state does, not earlier and not much later.

#[path = "support/redis/mod.rs"]
mod servers;

use std::time::Duration;

use servers::Server;
use tollgate::store::Outcome;
use tollgate::{Check, Identity, Limits, Policy, Quota, RedisStore, Scope, Store};

const DAY: Duration = Duration::from_secs(86_400);

fn store(server: &Server) -> RedisStore {
    RedisStore::new(&server.url()).unwrap()
}

async fn answer<T>(outcome: Outcome<T>) -> T {
    outcome.wait().await.unwrap()
}

#[tokio::test]
async fn keys_name_identity_scope_policy_and_quota() {
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
    answer(store.check(&Check::new(&address, &limits).scope(&scope))).await;

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
async fn next_charge_restores_a_missing_ttl() {
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
            assert!(answer(store.check(&check)).await.is_allowed());
            let [key] = &server.keys().await[..] else {
                panic!("not one key: {quota}");
            };
            assert_eq!(server.keys_without_ttl().await, [""; 0], "{quota}");
            server.command(&["PERSIST", key]).await;
        }
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn prefix_separates_applications() {
    let server = Server::start().await;
    let limits = Limits::from(Quota::per_day(1));
    let alice = Identity::user("alice");
    for prefix in ["one", "two"] {
        let store = RedisStore::builder(&server.url()).prefix(prefix).build();
        let verdict = answer(store.unwrap().check(&Check::new(&alice, &limits))).await;
        assert!(verdict.is_allowed(), "{prefix} has a separate entry");
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
async fn identity_values_cannot_forge_keys_or_hash_tags() {
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
        let verdict = answer(store.check(&Check::new(&identity, &limits))).await;
        assert!(verdict.is_allowed(), "`{value}` has a separate entry");
    }
    let keys = server.keys().await;
    assert_eq!(keys.len(), values.len());
    for key in keys {
        let braces = key.matches(['{', '}']).count();
        assert!(key.starts_with("tollgate:{user:") && braces == 2, "{key}");
        assert!(key.len() < 128 && !key.contains(' '), "{key}");
    }
}

/// Returns the value of a key and when it expires, in milliseconds since the epoch.
async fn value_and_expiry(server: &Server, key: &str) -> (String, u64) {
    let script = "local before = redis.call('TIME') \
         local value, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]) \
         local after = redis.call('TIME') \
         local function milliseconds(time) return time[1] * 1000 + math.floor(time[2] / 1000) end \
         return {milliseconds(before), value, left, milliseconds(after)}";
    loop {
        let (before, value, left, after): (u64, String, u64, u64) =
            server.query(&["EVAL", script, "1", key]).await;
        // Retry if PTTL may have been read in another millisecond than the time.
        if before == after {
            return (value, before + left);
        }
    }
}

#[tokio::test]
async fn key_expires_with_its_state() {
    let server = Server::start().await;
    let store = store(&server);
    let eighth = (3_650 * DAY / 8).as_millis() as u64;
    // Each quota, and its slack: how many milliseconds a key may outlive its state. Tokens of the first
    // two quotas do not take whole microseconds, so their slack is 1 ms, as that of windows. The third
    // quota has the longest slack, an eighth of its time to fill.
    let quotas = [
        (Quota::per_second(3), 1),
        (Quota::per_second(4_000_000), 1),
        (Quota::token_bucket(1, 3_650 * DAY), eighth),
        (Quota::sliding_window(10, DAY), 1),
        (Quota::fixed_window(10, DAY), 1),
    ];
    for (quota, slack) in quotas {
        let (identity, limits) = (Identity::user("alice"), Limits::from(quota));
        // Charge the whole capacity, so that the key does not expire before it is read.
        let check = Check::new(&identity, &limits).cost(quota.capacity());
        let verdict = answer(store.check(&check)).await;
        assert!(verdict.is_allowed());
        let (state, _) = quota.step(verdict.states()[0], verdict.now(), check.cost);

        let text = quota.to_string().replace(' ', "-");
        let key = format!("tollgate:{{user:alice}}:default:default:{text}");
        let (value, expiry) = value_and_expiry(&server, &key).await;
        let until: u64 = value.split(':').next().unwrap().parse().unwrap();
        assert_eq!(until, state.words()[0], "{quota}: {value}");
        // The first millisecond in which the state has expired.
        let earliest = until.div_ceil(1_000);
        assert!(
            (earliest..=earliest + slack).contains(&expiry),
            "{quota}: the key expires at {expiry}, its state at {earliest}"
        );
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn recharged_key_never_expires_before_its_state() {
    let server = Server::start().await;
    let store = store(&server);
    // Few charges of the first quota move the expiry, many of the second, and every one of the third.
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
        let mut expiries = Vec::new();
        for charge in 1..=quota.capacity().min(2_000) {
            // The script has a separate path for several policies.
            let check = match charge % 3 {
                0 => Check::new(&identity, &both),
                _ => check,
            };
            assert!(answer(store.check(&check)).await.is_allowed());
            let (until, expiry) = value_and_expiry(&server, &key).await;
            let until: u64 = until.parse().unwrap();
            assert!(
                until.div_ceil(1_000) <= expiry,
                "{quota}: expires at {expiry}"
            );
            expiries.push(expiry);
        }
        expiries.dedup();
        assert!(expiries.len() > 2, "{quota}: {expiries:?}");
    }
}

#[tokio::test]
async fn reset_peek_and_denial_leave_no_key() {
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
        answer(store.check(&check)).await;
        answer(store.reset(&check)).await;
        assert_eq!(server.keys().await, [""; 0], "{quota}: reset");
        answer(store.check(&check.cost(0))).await;
        answer(store.check(&check.cost(11))).await;
        assert_eq!(server.keys().await, [""; 0], "{quota}: a peek and a denial");
    }
}
