use hdrhistogram::Histogram;
use serde::Serialize;

/// The steps of each power of ten: about as far from each other.
const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 70];

/// How many answers took longer than the bar before, and no longer than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Bar {
    pub(super) up_to_us: u64,
    pub(super) count: u64,
}

/// From the bar with the fastest answer to that with the slowest.
pub(super) fn bars(latencies: &Histogram<u64>) -> Vec<Bar> {
    // Before the fastest there is nothing to see.
    let mut bounds = bounds().skip_while(|bound| *bound < latencies.min());
    let mut bars: Vec<Bar> = Vec::new();
    for value in latencies.iter_recorded() {
        let took = latencies.lowest_equivalent(value.value_iterated_to());
        while bars.last().is_none_or(|bar| bar.up_to_us < took)
            && let Some(up_to_us) = bounds.next()
        {
            bars.push(Bar { up_to_us, count: 0 });
        }
        if let Some(bar) = bars.last_mut() {
            bar.count += value.count_at_value();
        }
    }
    bars
}

/// Upper bounds of bars, in microseconds.
fn bounds() -> impl Iterator<Item = u64> {
    let powers = (0..).map_while(|power| 10_u64.checked_pow(power));
    powers.flat_map(|power| {
        STEPS
            .into_iter()
            .filter_map(move |step| step.checked_mul(power))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u64]) -> Vec<(u64, u64)> {
        let mut latencies = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
        for value in values {
            latencies.saturating_record(*value);
        }
        let bars = bars(&latencies).into_iter();
        bars.map(|bar| (bar.up_to_us, bar.count)).collect()
    }

    #[test]
    fn every_answer_is_in_one_bar() {
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[0, 3, 10]), [(10, 3)]);
        assert_eq!(of(&[11, 15, 16]), [(15, 2), (20, 1)]);
        // What is between them is shown, what is around them is not.
        let expected = [(150, 1), (200, 0), (300, 0), (500, 2)];
        assert_eq!(of(&[101, 499, 500]), expected);
        let (up_to_us, count) = of(&[u64::MAX])[0];
        assert!(up_to_us >= 3_600_000_000, "{up_to_us}");
        assert_eq!(count, 1);
    }
}
