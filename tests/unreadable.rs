//! What is no count stands where a count should: those whose it is are decided without the store,
//! and nobody else has anything of it.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;

use std::error::Error;

use futures_util::future::join_all;
use outage::{LONG, alice, check, counted_of, limiter, quotas, together};
use servers::Server;
use tollgate::{Check, Checked, Identity, Limits, Policy, RedisStore, Store, StoreErrorKind};

/// The keys of one identity under these limits, in order.
fn keys(who: &str, limits: &Limits) -> Vec<String> {
    let policies = limits.policies().iter();
    let key = |policy: &Policy| {
        let quota = policy.quota().to_string().replace(' ', "-");
        format!("tollgate:{{user:{who}}}:default:{}:{quota}", policy.name())
    };
    policies.map(key).collect()
}

const NO_COUNTS: [&str; 31] = [
    "",
    "abc",
    "-5",
    "1e5",
    "0x10",
    " 5",
    "5\n",
    "1.5",
    "1:2:3:4",
    "1:-2",
    "-1:2:3",
    "9007199254740993",
    "99999999999999999999999",
    "9007199254740993:1:1",
    " ",
    " 1",
    "1 ",
    "+1",
    "1:",
    ":1",
    "nan",
    "inf",
    "1:99999999999999999999",
    "1\n",
    "1\u{0}",
    "1:1\u{0}",
    "١",
    "1:-1",
    "1:1:-1",
    "-1:1:1",
    "1:99999999999999999:1",
];

#[tokio::test]
async fn what_is_no_count_errs_alone_and_nothing_is_half_written() {
    let server = Server::start().await;
    errs_alone(&server, &together(10)).await;
    for quota in quotas(10) {
        server.command(&["FLUSHALL"]).await;
        errs_alone(&server, &Limits::from(quota)).await;
    }
}

async fn errs_alone(server: &Server, limits: &Limits) {
    let (alice, bob) = (alice(), Identity::user("bob"));
    let hers = keys("alice", limits);
    let mut admitted = 0;
    for place in 0..hers.len() {
        let texts = NO_COUNTS.map(|text| vec!["SET", &hers[place], text]);
        let types = [
            vec!["LPUSH", &hers[place], "1"],
            vec!["HSET", &hers[place], "1", "1"],
            vec!["SADD", &hers[place], "1"],
        ];
        for command in texts.into_iter().chain(types) {
            server.command(&command).await;
            let written = server.command(&["DUMP", &hers[place]]).await;
            // One call, since they are asked at once; its middle entry is flawed.
            let store = RedisStore::new(&server.url()).unwrap();
            let asked = [&bob, &alice, &bob].map(|who| {
                let cost = if who == &alice { 2 } else { 1 };
                store.check(&Check::new(who, limits).cost(cost)).wait()
            });
            let [one, flawed, other] = join_all(asked).await.try_into().unwrap();
            for verdict in [one, other] {
                admitted += u32::from(verdict.unwrap().is_allowed());
            }
            let error = flawed.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unusable, "{command:?}");
            let cause = error.source().unwrap().to_string();
            assert!(cause.contains("delete it"), "{cause}");

            let keys = server.keys().await;
            let others: Vec<_> = hers.iter().filter(|key| **key != hers[place]).collect();
            assert!(!keys.iter().any(|key| others.contains(&key)), "{keys:?}");
            assert_eq!(server.command(&["DUMP", &hers[place]]).await, written);
            server.command(&["DEL", &hers[place]]).await;
        }
    }
    assert_eq!(admitted, 10);
    assert_eq!(counted_of(server, &bob, limits).await, vec![10; hers.len()]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

#[tokio::test]
async fn whose_count_is_unreadable_is_limited_here_and_the_breaker_does_not_mind() {
    let server = Server::start().await;
    for quota in quotas(10) {
        let (limits, limiter) = (Limits::from(quota), limiter(&server.url(), LONG));
        let [key] = &keys("alice", &limits)[..] else {
            panic!("there is one policy");
        };
        server.command(&["SET", key, "no count"]).await;
        for left in (5..10).rev() {
            // The store is asked each time, as it answers others.
            let (alice, bob) = (alice(), Identity::user("bob"));
            let asked = limiter.check(&Check::new(&alice, &limits));
            assert!(matches!(asked, Checked::Pending(_)), "{quota}");
            let decision = asked.await;
            assert!(decision.is_degraded() && decision.is_allowed(), "{quota}");
            assert_eq!(decision.remaining(), left, "{quota}");
            let decision = limiter.check(&Check::new(&bob, &limits)).await;
            assert!(!decision.is_degraded(), "{quota}");
        }
        // Once it is deleted, the store goes on from what was counted here.
        server.command(&["DEL", key]).await;
        let decision = check(&limiter, &limits).await;
        assert!(!decision.is_degraded());
        assert_eq!(decision.remaining(), 4, "{quota}");
        assert_eq!(server.keys_without_ttl().await, [""; 0]);
    }
}

#[tokio::test]
async fn only_a_reset_deletes_a_foreign_value() {
    let server = Server::start().await;
    let limits = Limits::from(quotas(10)[0]);
    let [key] = &keys("alice", &limits)[..] else {
        panic!("there is one policy");
    };
    let store = RedisStore::new(&server.url()).unwrap();
    let alice = alice();
    let check = Check::new(&alice, &limits);
    for command in [
        &["SET", key, "somebody else's"][..],
        &["RPUSH", key, "a list"],
    ] {
        server.command(command).await;
        let error = store.check(&check).wait().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unusable);
        assert_eq!(server.keys().await, [key.as_str()]);
        store.reset(&check).wait().await.unwrap();
        assert_eq!(server.keys().await, [""; 0]);
    }
}
