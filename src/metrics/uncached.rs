//! Metrics of rare events, whose handles are not kept.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use metrics::{counter, gauge};

/// Counts a request without an identity.
pub(crate) fn unidentified() {
    counter!("rate_limit_unidentified_total").increment(1);
}

/// Adds a lane's breaker to the number of open breakers, or subtracts it. The gauge is a number
/// because several limiters may have stores of the same name.
pub(crate) fn breaker(store: &'static str, lane: &str, open: bool) {
    let change = if open { 1.0 } else { -1.0 };
    gauge!("rate_limit_breaker_open", "store" => store, "lane" => lane_label(lane))
        .increment(change);
}

/// The largest number of lane labels. Labels are never removed, although servers may change their
/// addresses.
const MAX_LANE_LABELS: usize = 1_000;

/// Returns a lane's label: its name, or `other` for a new name once there are [`MAX_LANE_LABELS`].
fn lane_label(name: &str) -> String {
    static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if !names.contains(name) {
        if names.len() >= MAX_LANE_LABELS {
            return "other".into();
        }
        names.insert(name.into());
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_labels_are_bounded() {
        let names = (0..3 * MAX_LANE_LABELS).map(|port| format!("10.0.0.1:{port}"));
        let labels: BTreeSet<_> = names.map(|name| lane_label(&name)).collect();
        assert_eq!(labels.len(), MAX_LANE_LABELS + 1);
        assert!(labels.contains("other"));
        assert_eq!(lane_label("10.0.0.1:0"), "10.0.0.1:0");
    }
}
