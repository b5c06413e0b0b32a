//! Quotas are exact: property tests of the algorithms with arbitrary numbers, states and clocks.

#[allow(dead_code, reason = "these tests use the random numbers only")]
#[path = "support/final_costs.rs"]
mod final_costs;

use std::time::Duration;

use final_costs::Random;
use proptest::prelude::*;
use tollgate::store::State;
use tollgate::{Algorithm, Quota};

const NOW: u64 = 1_700_000_000_000_000;

fn periods() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1..5_000u64).prop_map(Duration::from_millis),
        (1..100_000u64).prop_map(Duration::from_secs),
        Just(Duration::from_secs(86_400)),
        Just(Duration::from_secs(3_650 * 86_400)),
    ]
}

fn limits() -> impl Strategy<Value = u32> {
    prop_oneof![1..20u32, 1..100_000u32, Just(123_457)]
}

/// Generates quotas of every algorithm, some with products near 2^53.
fn quotas() -> impl Strategy<Value = Quota> {
    let bucket = (limits(), periods(), limits()).prop_filter_map("exact", |(n, period, burst)| {
        Quota::try_token_bucket(n, period)
            .and_then(|quota| quota.try_burst(burst))
            .ok()
    });
    let fine =
        (1..2_000_000u32, 1..5_000_000u64, limits()).prop_filter_map("exact", |(n, us, b)| {
            let period = Duration::from_micros(us);
            Quota::try_token_bucket(n, period)
                .and_then(|quota| quota.try_burst(b))
                .ok()
        });
    let sliding = (limits(), periods()).prop_filter_map("exact", |(n, period)| {
        Quota::try_sliding_window(n, period).ok()
    });
    let fixed = (limits(), periods()).prop_filter_map("exact", |(n, period)| {
        Quota::try_fixed_window(n, period).ok()
    });
    let queue = (1..2_000u32, periods(), limits(), 1..500u32).prop_filter_map(
        "exact",
        |(n, period, burst, queue)| {
            Quota::try_token_bucket_with_burst(n, period, burst)
                .and_then(|quota| quota.try_queue(queue))
                .ok()
        },
    );
    prop_oneof![bucket, fine, queue, sliding, fixed]
}

/// Generates a quota, a state that checks of this quota may have left, and the current time.
fn states() -> impl Strategy<Value = (Quota, State, u64)> {
    let checks = prop::collection::vec((0.0..1.5f64, 0.0..0.4f64), 1..8);
    (quotas(), checks, 0..10_000_000u64).prop_map(|(quota, checks, offset)| {
        let (mut state, mut now) = (State::default(), NOW + offset);
        for (periods, share) in checks {
            now += (quota.period().as_micros() as f64 * periods) as u64;
            let cost = (f64::from(quota.capacity()) * share).ceil() as u32;
            (state, _) = quota.step(state, now, cost);
        }
        (quota, state, now)
    })
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn denied_check_fits_exactly_after_its_wait(
        (quota, state, now) in states(), share in 0.0..1.0f64,
    ) {
        let cost = ((f64::from(quota.capacity()) * share) as u32).max(1);
        let (after, status) = quota.step(state, now, cost);
        if status.is_allowed() {
            prop_assert_eq!(status.retry_after(), Some(Duration::ZERO));
        } else {
            prop_assert_eq!(after, state, "a denied check charges nothing");
            let wait = micros(status.retry_after().expect("the cost fits an untouched quota"));
            prop_assert!(quota.step(state, now + wait, cost).1.is_allowed());
            prop_assert!(!quota.step(state, now + wait - 1, cost).1.is_allowed());
        }
    }

    #[test]
    fn remaining_fits_and_one_more_does_not((quota, state, now) in states()) {
        let (_, look) = quota.step(state, now, 0);
        prop_assert!(look.is_allowed());
        prop_assert!(look.remaining() <= quota.capacity());
        let (_, all) = quota.step(state, now, look.remaining());
        prop_assert!(all.is_allowed());
        prop_assert!(look.remaining() == 0 || all.remaining() == 0);
        prop_assert!(!quota.step(state, now, look.remaining() + 1).1.is_allowed());
    }

    #[test]
    fn full_quota_is_back_exactly_after_the_reset(
        (quota, state, now) in states(),
    ) {
        let fits = |now| quota.step(state, now, quota.capacity()).1.is_allowed();
        let reset = micros(quota.step(state, now, 0).1.reset_after());
        prop_assert!(fits(now + reset));
        // In a sliding window the whole capacity may fit slightly before the reset, when the weight
        // of the previous window is less than one.
        if reset > 0 && quota.algorithm() != Algorithm::SlidingWindow {
            prop_assert!(!fits(now + reset - 1));
        }
        prop_assert!(state.expires_at() <= now + reset + 1 || quota.algorithm() == Algorithm::SlidingWindow);
        prop_assert!(state == State::default() || state.is_expired(now + reset + 1)
            || quota.algorithm() == Algorithm::SlidingWindow);
    }

    #[test]
    fn expired_state_equals_the_default_state((quota, state, now) in states(), cost in 0..100u32) {
        let later = now.max(state.expires_at());
        prop_assert!(state.is_expired(later));
        let statuses = [state, State::default()].map(|state| quota.step(state, later, cost).1);
        prop_assert_eq!(statuses[0], statuses[1]);
    }

    #[test]
    fn bucket_admits_at_most_burst_plus_refill(
        limit in 1..50u32, period in 1..3_000_000u64, burst in 1..50u32,
        gaps in prop::collection::vec(0..500_000u64, 1..300),
    ) {
        let quota = Quota::try_token_bucket(limit, Duration::from_micros(period)).unwrap();
        let quota = quota.try_burst(burst).unwrap();
        let (mut state, mut now, mut admitted) = (State::default(), NOW, 0u128);
        for gap in gaps {
            now += gap;
            let (next, status) = quota.step(state, now, 1);
            state = next;
            admitted += u128::from(status.is_allowed());
            let inflow = u128::from(now - NOW) * u128::from(limit) / u128::from(period);
            prop_assert!(admitted <= u128::from(burst) + inflow);
        }
    }

    #[test]
    fn bucket_loses_no_token_to_rounding(
        limit in 1..5_000u32, period in 1_000..3_000_000u64,
    ) {
        let quota = Quota::try_token_bucket(limit, Duration::from_micros(period)).unwrap();
        let (mut state, _) = quota.step(State::default(), NOW, limit);
        let mut now = NOW;
        for admitted in 1..=2 * u128::from(limit) {
            let (_, status) = quota.step(state, now, 1);
            now += micros(status.retry_after().unwrap());
            (state, _) = quota.step(state, now, 1);
            // The n-th token arrives after n × period / limit, rounded up once.
            let exact = (admitted * u128::from(period)).div_ceil(u128::from(limit));
            prop_assert_eq!(u128::from(now - NOW), exact);
        }
    }

    #[test]
    fn windows_admit_at_most_their_limit(
        limit in 1..20u32, period in 1..5_000u64, sliding: bool,
        gaps in prop::collection::vec(0..2_000_000u64, 1..300),
    ) {
        let length = Duration::from_millis(period);
        let quota = match sliding {
            true => Quota::sliding_window(limit, length),
            false => Quota::fixed_window(limit, length),
        };
        let (mut state, mut now) = (State::default(), NOW);
        let mut windows = std::collections::HashMap::<u64, u32>::new();
        for gap in gaps {
            now += gap;
            let (next, status) = quota.step(state, now, 1);
            state = next;
            let count = windows.entry(now / 1_000 / period).or_default();
            *count += u32::from(status.is_allowed());
            prop_assert!(*count <= limit);
        }
    }

    #[test]
    fn no_state_or_time_makes_a_step_panic(
        quota in quotas(), words: [u64; 2], now: u64, cost: u32, other: [u64; 2], to: u64,
    ) {
        let (state, other) = (State::from_words(words), State::from_words(other));
        let (next, _) = quota.step(state, now, cost);
        quota.step(next, now, cost);
        quota.join(state, other, now);
        quota.rebase(state, now, to);
    }

    #[test]
    fn clock_step_back_adds_no_quota((quota, state, now) in states(), back in 1..u64::MAX) {
        let before = quota.step(state, now, 0).1.remaining();
        let earlier = now.saturating_sub(back % (2 * micros(quota.period()).max(1)));
        prop_assert!(quota.step(state, earlier, 0).1.remaining() <= before);
    }

    #[test]
    fn denials_end_after_a_clock_step((quota, state, now) in states(), by in 0..NOW) {
        let earlier = now - by;
        let (kept, status) = quota.step(state, earlier, quota.capacity());
        if !status.is_allowed() {
            let wait = status.retry_after().unwrap();
            prop_assert!(quota.step(kept, earlier + micros(wait), quota.capacity()).1.is_allowed());
            // The window may begin up to one period later, and counts for two periods.
            prop_assert!(micros(wait) <= 3 * micros(quota.period()).max(fill_time(quota)));
        }
    }

    #[test]
    fn join_is_idempotent_and_takes_the_higher_count(
        (quota, one, now) in states(), costs in prop::collection::vec(0.0..0.5f64, 1..4),
    ) {
        let mut other = State::default();
        for cost in costs {
            (other, _) = quota.step(other, now, (f64::from(quota.capacity()) * cost) as u32);
        }
        let left = |state| quota.step(state, now, 0).1.remaining();
        let joined = quota.join(one, other, now);
        prop_assert!(left(joined) <= left(one).min(left(other)));
        prop_assert_eq!(left(quota.join(joined, other, now)), left(joined));
        prop_assert_eq!(left(quota.join(joined, one, now)), left(joined));
        prop_assert_eq!(left(quota.join(other, one, now)), left(joined));
        if quota.algorithm() != Algorithm::SlidingWindow {
            prop_assert_eq!(left(joined), left(one).min(left(other)));
        }
    }

    #[test]
    fn rebase_keeps_the_status_on_another_clock((quota, state, now) in states(), windows in 0..1_000u64, ahead: bool) {
        // By whole periods, so that windows stay aligned.
        let by = windows * micros(quota.period());
        let other_clock = if ahead { now + by } else { now - by % (now / 2) / micros(quota.period()) * micros(quota.period()) };
        let rebased = quota.rebase(state, now, other_clock);
        prop_assert_eq!(quota.step(rebased, other_clock, 0).1, quota.step(state, now, 0).1);
    }
}

fn fill_time(quota: Quota) -> u64 {
    let tokens = u64::from(quota.capacity()) + u64::from(quota.queued());
    micros(quota.period()) / u64::from(quota.limit()) * tokens + tokens
}

/// The numbers are those in the guide, `algorithms`.
#[test]
fn worst_case_within_a_period_matches_the_guide() {
    let period = Duration::from_secs(1);
    // Returns how much a quota admits if requests come at these times, less than a period apart.
    let admitted = |quota: Quota, bursts: &[u64]| {
        let mut state = State::default();
        let mut count = 0;
        for passed in bursts {
            let now = NOW / 1_000_000 * 1_000_000 + passed;
            while let (next, status) = quota.step(state, now, 1)
                && status.is_allowed()
            {
                (state, count) = (next, count + 1);
            }
        }
        count
    };
    for n in [1, 5, 100] {
        let around_a_boundary = [999_000, 1_998_000];
        assert_eq!(
            admitted(Quota::fixed_window(n, period), &[999_999, 1_000_000]),
            2 * n
        );
        let sliding = Quota::sliding_window(n, period);
        assert_eq!(admitted(sliding, &around_a_boundary), 2 * n - 1);
        let every_token: Vec<_> = (0..1_000_000).step_by(1_000).collect();
        let bucket = Quota::token_bucket(n, period).burst(20);
        assert!(admitted(bucket, &every_token) <= 20 + n);
        assert!(admitted(bucket, &every_token) >= 20 + n - 1);
    }
}

/// The numbers are those in the guide, `algorithms`.
#[test]
fn small_sliding_window_denies_part_of_an_even_flow() {
    for (limit, admitted_of_1000) in [(1, 500), (5, 800)] {
        let quota = Quota::sliding_window(limit, Duration::from_secs(1));
        let (mut state, mut admitted) = (State::default(), 0);
        for request in 0..1_000 {
            let now = NOW / 1_000_000 * 1_000_000 + request * 1_000_000 / u64::from(limit);
            let (next, status) = quota.step(state, now, 1);
            (state, admitted) = (next, admitted + i32::from(status.is_allowed()));
        }
        assert!(
            (admitted_of_1000 - 1..=admitted_of_1000 + 1).contains(&admitted),
            "{limit}: {admitted}"
        );
    }
}

/// A queue's quota and the numbers from which its releases are computed: the refill time of a token in
/// units of `1 / limit` microseconds is the period.
struct Queue {
    quota: Quota,
    limit: i128,
    token: i128,
    burst: i128,
}

impl Queue {
    fn new(limit: u32, period: u64, burst: u32, queue: u32) -> Self {
        let quota = Quota::try_token_bucket_with_burst(limit, Duration::from_micros(period), burst);
        Self {
            quota: quota.and_then(|quota| quota.try_queue(queue)).unwrap(),
            limit: limit.into(),
            token: period.into(),
            burst: burst.into(),
        }
    }

    /// Returns when the last charge of a state may go on, in units of `1 / limit` microseconds.
    fn release(&self, state: State, now: u64) -> i128 {
        let [until, rest] = state.words();
        // The denominator of `rest` is the limit divided by its common divisor with the period.
        let divisor = (1..=self.limit)
            .rev()
            .find(|d| self.limit % d == 0 && self.token % d == 0);
        let full_at = i128::from(until) * self.limit + i128::from(rest) * divisor.unwrap();
        (full_at - self.burst * self.token).max(i128::from(now) * self.limit)
    }
}

/// A generic cell rate algorithm of the releases never exceeds a full bucket, so no interval has more
/// than `burst + limit * interval` of them.
#[test]
fn queue_releases_never_exceed_the_limit() {
    let mut random = Random(1);
    let mut delayed = 0;
    for history in 0..100_000 {
        let (limit, burst) = (1 + random.below(7) as u32, 1 + random.below(5) as u32);
        let (period, queue) = (1 + random.below(5_000), 1 + random.below(12) as u32);
        let case = Queue::new(limit, period, burst, queue);
        let (mut state, mut now, mut last) = (State::default(), NOW, 0);
        // When a bucket is full again that is charged when each check is released.
        let mut full_at = 0;
        for _ in 0..3 + random.below(20) {
            now += random.below(2) * random.below(2 * period);
            let cost = 1 + random.below(u64::from(burst)) as u32;
            let max_wait = match random.below(3) {
                0 => Duration::from_micros(random.below(3 * period)),
                _ => Duration::MAX,
            };
            let (next, status) = case.quota.step_within(state, now, cost, max_wait);
            if !status.is_allowed() {
                assert_eq!((next, status.delay()), (state, Duration::ZERO));
                let wait = micros(status.retry_after().unwrap());
                let retry = |wait| case.quota.step_within(state, now + wait, cost, max_wait).1;
                assert!(retry(wait).is_allowed() && !retry(wait - 1).is_allowed());
                continue;
            }
            state = next;
            let release = case.release(state, now);
            let delay = release - i128::from(now) * case.limit;
            let rounded = (delay + case.limit - 1) / case.limit;
            assert_eq!(
                i128::from(micros(status.delay())),
                rounded,
                "history {history}"
            );
            assert!(status.delay() <= max_wait);
            assert!(
                last <= release,
                "history {history}: a later charge goes first"
            );
            last = release;
            delayed += i32::from(rounded > 0);
            full_at = full_at.max(release) + i128::from(cost) * case.token;
            assert!(
                full_at - release <= case.burst * case.token,
                "history {history}: over the limit"
            );
        }
    }
    assert!(delayed > 100_000, "only {delayed} charges were delayed");
}

#[test]
fn queue_debt_from_a_clock_fault_is_bounded() {
    let quota = Quota::per_second(10).burst(2).queue(5);
    let ahead = State::from_words([NOW + 86_400_000_000, 0]);
    let (state, status) = quota.step_within(ahead, NOW, 1, Duration::MAX);
    assert_eq!(state.words(), [NOW + 700_000, 0]);
    assert_eq!(status.retry_after(), Some(Duration::from_millis(100)));
    let (_, status) = quota.step_within(state, NOW + 100_000, 1, Duration::MAX);
    assert_eq!(status.delay(), Duration::from_millis(500));
}

/// A check that does not wait is decided as if the quota had no queue, unless others wait.
#[test]
fn checks_without_a_wait_use_the_burst_only() {
    let (plain, queue) = (
        Quota::per_second(3).burst(4),
        Quota::per_second(3).burst(4).queue(9),
    );
    let mut random = Random(2);
    let (mut now, mut states) = (NOW, [State::default(); 2]);
    for _ in 0..10_000 {
        now += random.below(500_000);
        let cost = random.below(6) as u32;
        let [(one, one_status), (two, two_status)] = [
            plain.step(states[0], now, cost),
            queue.step(states[1], now, cost),
        ];
        assert_eq!((one, one_status), (two, two_status));
        states = [one, two];
    }
}
