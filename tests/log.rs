//! The log has a line for each change of state, and none for each request.

#[path = "support/log.rs"]
mod log;

use std::time::Duration;

use tokio::time::sleep;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{
    Check, Identity, Limiter, Limits, LocalStore, Quota, RateLimitLayer, StoreErrorKind,
};
use tower::Layer;

use log::{logged, record};

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_and_comes_back_is_two_lines() {
    record();
    let store = ProgrammableStore::new();
    let limiter = Limiter::from(store.clone());
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(10)));
    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    for _ in 0..100 {
        limiter.check(&Check::new(&alice, &limits)).await;
        sleep(Duration::from_millis(20)).await;
    }
    let lines = logged("store=\"programmable\"");
    let [away] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        away.starts_with("WARN ") && away.contains("is away"),
        "{away}"
    );
    assert!(away.contains("the store cannot be reached"), "{away}");

    store.behave(Behavior::Answer);
    sleep(Duration::from_secs(2)).await;
    let lines = logged("store=\"programmable\"");
    let [_, back] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        back.starts_with("INFO ") && back.contains("is back"),
        "{back}"
    );
    assert!(logged("alice").is_empty(), "no line names who was asking");
}

#[test]
fn layers_that_share_a_count_are_warned_of_once() {
    record();
    let limiter = Limiter::from(LocalStore::new());
    let layer = |scope: &str, limit| {
        RateLimitLayer::new(Quota::per_day(limit), limiter.clone()).scope(scope)
    };
    let wrap = |layer: &RateLimitLayer| drop(layer.layer(()));

    // One layer on many services, other scopes, other quotas, and a layer in place of another.
    let one = layer("shared", 10);
    for _ in 0..10 {
        wrap(&one);
        wrap(&one.clone());
    }
    wrap(&layer("other", 10));
    wrap(&layer("shared", 11));
    wrap(&layer("other", 10));
    assert_eq!(logged("scope=\"shared\""), [""; 0]);
    assert_eq!(logged("scope=\"other\""), [""; 0]);

    for _ in 0..10 {
        wrap(&layer("shared", 10));
    }
    let lines = logged("scope=\"shared\"");
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("WARN ") && line.contains("policy=\"default\""),
        "{line}"
    );
}
