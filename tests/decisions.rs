//! The algorithms decide exactly as the published vectors say. (That the script in Redis does is a
//! unit test of the store: only there can it be given the time.)

#[path = "support/vectors.rs"]
mod vectors;

use tollgate::test_util::ManualClock;
use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota, State, Verdict};

#[test]
fn the_pure_step_follows_every_vector() {
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
async fn the_local_store_follows_every_vector() {
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
fn a_verdict_is_the_same_whoever_computed_it() {
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_second(3)));
    let decided = Check::new(&alice, &limits).decide(1_000_000, []).verdict;
    let told = Verdict::new(true, 1_000_000, [State::default()]);
    assert_eq!(decided, told);
}
