//! The algorithms decide exactly as the published vectors say.

use serde_json::Value;
use tollgate::test_util::ManualClock;
use tollgate::{Check, Identity, Limiter, Limits, LocalStore, Quota, State, Status};

struct Case {
    name: String,
    quota: Quota,
    steps: Vec<Value>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("vectors/decisions.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let cases: Vec<Case> = vectors["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| Case {
            name: case["name"].as_str().unwrap().into(),
            quota: quota(&case["quota"]),
            steps: case["steps"].as_array().unwrap().clone(),
        })
        .collect();
    assert!(cases.len() > 100, "the vectors are there");
    cases
}

fn quota(value: &Value) -> Quota {
    let number = |key: &str| u32::try_from(value[key].as_u64().unwrap()).unwrap();
    let period = std::time::Duration::from_micros(value["period_us"].as_u64().unwrap());
    let limit = number("limit");
    match value["algorithm"].as_str().unwrap() {
        "token_bucket" => Quota::try_token_bucket(limit, period)
            .unwrap()
            .try_burst(number("burst"))
            .unwrap(),
        "sliding_window" => Quota::try_sliding_window(limit, period).unwrap(),
        "fixed_window" => Quota::try_fixed_window(limit, period).unwrap(),
        other => panic!("{other}"),
    }
}

fn check(case: &Case, index: usize, status: &Status) {
    let step = &case.steps[index];
    let said = serde_json::json!({
        "at_us": step["at_us"], "cost": step["cost"],
        "allowed": status.is_allowed(),
        "remaining": status.remaining(),
        "retry_after_us": status.retry_after().map(|wait| wait.as_micros() as u64),
        "reset_after_us": status.reset_after().as_micros() as u64,
    });
    assert_eq!(&said, step, "{}, step {index}", case.name);
}

#[test]
fn the_pure_step_follows_every_vector() {
    for case in cases() {
        let mut state = State::default();
        for (index, step) in case.steps.iter().enumerate() {
            let now = step["at_us"].as_u64().unwrap();
            let cost = step["cost"].as_u64().unwrap() as u32;
            let (next, status) = case.quota.step(state, now, cost);
            check(&case, index, &status);
            state = next;
        }
    }
}

#[tokio::test]
async fn the_local_store_follows_every_vector() {
    let clock = ManualClock::new();
    let limiter = Limiter::from(LocalStore::new().clock(clock.clone()));
    for case in cases() {
        let (identity, limits) = (Identity::user(&case.name), Limits::from(case.quota));
        for (index, step) in case.steps.iter().enumerate() {
            clock.set(step["at_us"].as_u64().unwrap());
            let cost = step["cost"].as_u64().unwrap() as u32;
            let decision = limiter
                .check(&Check::new(&identity, &limits).cost(cost))
                .await;
            let (_, status) = decision.policies().next().unwrap();
            check(&case, index, status);
        }
    }
}
