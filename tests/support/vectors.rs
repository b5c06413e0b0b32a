//! Reads the published test vectors of the algorithms, `tests/vectors/decisions.json`, and compares
//! statuses with them.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate::{Quota, Status};

/// A sequence of checks under one quota.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) quota: Quota,
    steps: Vec<Value>,
}

/// Returns all cases of the file.
pub(crate) fn cases() -> Vec<Case> {
    let text = include_str!("../vectors/decisions.json");
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
    assert!(cases.len() > 100, "most vectors are missing");
    cases
}

fn quota(value: &Value) -> Quota {
    let number = |key: &str| u32::try_from(value[key].as_u64().unwrap()).unwrap();
    let period = Duration::from_micros(value["period_us"].as_u64().unwrap());
    let limit = number("limit");
    match value["algorithm"].as_str().unwrap() {
        "token_bucket" => Quota::try_token_bucket(limit, period)
            .unwrap()
            .try_burst(number("burst"))
            .unwrap(),
        "sliding_window" => Quota::try_sliding_window(limit, period).unwrap(),
        "fixed_window" => Quota::try_fixed_window(limit, period).unwrap(),
        other => panic!("unknown algorithm {other}"),
    }
}

impl Case {
    /// Returns the time of each step, in microseconds since the epoch, and its cost.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (u64, u32)> {
        self.steps.iter().map(|step| {
            let cost = u32::try_from(step["cost"].as_u64().unwrap());
            (step["at_us"].as_u64().unwrap(), cost.unwrap())
        })
    }

    /// Asserts that the status of a step is the one in the vector.
    pub(crate) fn check(&self, index: usize, status: &Status) {
        let step = &self.steps[index];
        let actual = json!({
            "at_us": step["at_us"], "cost": step["cost"],
            "allowed": status.is_allowed(),
            "remaining": status.remaining(),
            "retry_after_us": status.retry_after().map(|wait| wait.as_micros() as u64),
            "reset_after_us": status.reset_after().as_micros() as u64,
        });
        assert_eq!(&actual, step, "{}, step {index}", self.name);
    }
}
