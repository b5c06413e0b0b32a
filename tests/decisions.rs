//! The algorithms follow the published vectors exactly. (The same test of the Lua script is a unit
//! test of the store, where the script can be given the time.)

#[path = "support/vectors.rs"]
mod vectors;

use tollgate::store::{State, Verdict};
use tollgate::test_util::ManualClock;
use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota};

#[test]
fn step_follows_every_vector() {
    for case in vectors::cases() {
        let mut state = State::default();
        for (index, (now, cost)) in case.steps().enumerate() {
            let (next, status) = case.quota.step(state, now, cost);
            case.check(index, &status);
            state = next;
        }
    }
}

#[tokio::test]
async fn local_store_follows_every_vector() {
    let clock = ManualClock::new();
    let limiter = Limiter::from(LocalStore::new().clock(clock.clone()));
    for case in vectors::cases() {
        let (identity, limits) = (Identity::user(&case.name), Limits::from(case.quota));
        for (index, (now, cost)) in case.steps().enumerate() {
            clock.set(now);
            let decision = limiter
                .check(&Check::new(&identity, &limits).cost(cost))
                .await;
            let (_, status) = decision.policies().next().unwrap();
            case.check(index, status);
        }
    }
}

#[test]
fn computed_and_constructed_verdicts_are_equal() {
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_second(3)));
    let computed = Check::new(&alice, &limits).decide(1_000_000, []).verdict;
    let constructed = Verdict::new(true, 1_000_000, [State::default()]);
    assert_eq!(computed, constructed);
}
