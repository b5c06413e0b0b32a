//! Quotas are exact: not one too many, not one too few, whatever the numbers; and numbers or texts
//! that make no quota are refused with an error that says what to do.

use std::time::Duration;

use proptest::prelude::*;
use tollgate::{Algorithm, Limits, MAX_POLICIES, Policy, Quota, Scope, State, Status};

const SECOND: Duration = Duration::from_secs(1);
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

/// Quotas of every algorithm, some with products near 2^53.
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
    prop_oneof![bucket, fine, sliding, fixed]
}

/// A state that some checks of the quota may have left, and the time.
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
    fn a_denied_check_fits_after_its_wait_and_not_a_microsecond_earlier(
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
    fn what_remains_fits_and_no_more((quota, state, now) in states()) {
        let (_, look) = quota.step(state, now, 0);
        prop_assert!(look.is_allowed());
        prop_assert!(look.remaining() <= quota.capacity());
        let (_, all) = quota.step(state, now, look.remaining());
        prop_assert!(all.is_allowed());
        prop_assert!(look.remaining() == 0 || all.remaining() == 0);
        prop_assert!(!quota.step(state, now, look.remaining() + 1).1.is_allowed());
    }

    #[test]
    fn the_whole_quota_is_back_after_the_reset_and_not_a_microsecond_earlier(
        (quota, state, now) in states(),
    ) {
        let fits = |now| quota.step(state, now, quota.capacity()).1.is_allowed();
        let reset = micros(quota.step(state, now, 0).1.reset_after());
        prop_assert!(fits(now + reset));
        // Of a sliding window, a tiny rest may weigh less than the least cost a little earlier,
        // but the quota is untouched again only at the reset.
        if reset > 0 && quota.algorithm() != Algorithm::SlidingWindow {
            prop_assert!(!fits(now + reset - 1));
        }
        prop_assert!(state.expires_at() <= now + reset + 1 || quota.algorithm() == Algorithm::SlidingWindow);
        prop_assert!(state == State::default() || state.is_spent(now + reset + 1)
            || quota.algorithm() == Algorithm::SlidingWindow);
    }

    #[test]
    fn a_spent_state_is_as_good_as_none((quota, state, now) in states(), cost in 0..100u32) {
        let later = now.max(state.expires_at());
        prop_assert!(state.is_spent(later));
        let statuses = [state, State::default()].map(|state| quota.step(state, later, cost).1);
        prop_assert_eq!(statuses[0], statuses[1]);
    }

    #[test]
    fn a_bucket_admits_its_burst_and_what_flows_in_and_no_more(
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
    fn a_bucket_asked_without_pause_loses_nothing_to_rounding(
        limit in 1..5_000u32, period in 1_000..3_000_000u64,
    ) {
        let quota = Quota::try_token_bucket(limit, Duration::from_micros(period)).unwrap();
        let (mut state, _) = quota.step(State::default(), NOW, limit);
        let mut now = NOW;
        for admitted in 1..=2 * u128::from(limit) {
            let (_, status) = quota.step(state, now, 1);
            now += micros(status.retry_after().unwrap());
            (state, _) = quota.step(state, now, 1);
            // The token that comes n-th is there after n × period / limit, rounded up once.
            let exact = (admitted * u128::from(period)).div_ceil(u128::from(limit));
            prop_assert_eq!(u128::from(now - NOW), exact);
        }
    }

    #[test]
    fn windows_admit_no_more_than_their_limit(
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
    fn no_state_and_no_clock_makes_a_step_panic(
        quota in quotas(), words: [u64; 2], now: u64, cost: u32, other: [u64; 2], to: u64,
    ) {
        let (state, other) = (State::from_words(words), State::from_words(other));
        let (next, _) = quota.step(state, now, cost);
        quota.step(next, now, cost);
        quota.refund(state, now, cost);
        quota.join(state, other, now);
        quota.rebase(state, now, to);
    }

    #[test]
    fn time_that_steps_back_mints_nothing((quota, state, now) in states(), back in 1..u64::MAX) {
        let before = quota.step(state, now, 0).1.remaining();
        let earlier = now.saturating_sub(back % (2 * micros(quota.period()).max(1)));
        prop_assert!(quota.step(state, earlier, 0).1.remaining() <= before);
    }

    #[test]
    fn service_returns_when_the_clock_has_stepped((quota, state, now) in states(), by in 0..NOW) {
        let earlier = now - by;
        let (kept, status) = quota.step(state, earlier, quota.capacity());
        if !status.is_allowed() {
            let wait = status.retry_after().unwrap();
            prop_assert!(quota.step(kept, earlier + micros(wait), quota.capacity()).1.is_allowed());
            // A window may begin within one period, and counts for two.
            prop_assert!(micros(wait) <= 3 * micros(quota.period()).max(fill_time(quota)));
        }
    }

    #[test]
    fn what_is_given_back_at_once_leaves_no_trace((quota, state, now) in states(), share in 0.0..1.0f64) {
        let look = |state| quota.step(state, now, 0).1;
        let cost = (f64::from(look(state).remaining()) * share) as u32;
        let (charged, status) = quota.step(state, now, cost);
        prop_assert!(status.is_allowed());
        prop_assert_eq!(look(quota.refund(charged, now, cost)), look(state));
        let nothing = quota.refund(charged, now, u32::MAX);
        prop_assert!(look(nothing).remaining() >= look(state).remaining());
    }

    #[test]
    fn joining_is_idempotent_and_takes_the_more_indebted(
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
    fn a_debt_moves_from_clock_to_clock((quota, state, now) in states(), windows in 0..1_000u64, ahead: bool) {
        // By whole periods, so that windows stay aligned.
        let by = windows * micros(quota.period());
        let there = if ahead { now + by } else { now - by % (now / 2) / micros(quota.period()) * micros(quota.period()) };
        let moved = quota.rebase(state, now, there);
        prop_assert_eq!(quota.step(moved, there, 0).1, quota.step(state, now, 0).1);
    }

    #[test]
    fn text_goes_there_and_back(quota in quotas()) {
        prop_assert_eq!(quota.to_string().parse::<Quota>().unwrap(), quota);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}", numbers in "[0-9/smhdu ]{0,30}") {
        let _ = text.parse::<Quota>();
        let _ = numbers.parse::<Quota>();
        let _ = format!("sliding {numbers}").parse::<Quota>();
    }
}

fn fill_time(quota: Quota) -> u64 {
    micros(quota.period()) / u64::from(quota.limit()) * u64::from(quota.capacity())
        + u64::from(quota.capacity())
}

#[test]
fn numbers_that_make_no_quota_are_refused_with_the_fix() {
    let years = Duration::from_secs(3_654 * 86_400);
    let fine = Quota::per_second(5);
    for (quota, said) in [
        (
            Quota::try_token_bucket(0, SECOND),
            vec!["limit must be at least 1"],
        ),
        (
            Quota::try_sliding_window(0, SECOND),
            vec!["limit must be at least 1"],
        ),
        (
            Quota::try_fixed_window(0, SECOND),
            vec!["limit must be at least 1"],
        ),
        (fine.try_burst(0), vec!["burst must be at least 1"]),
        (
            Quota::try_token_bucket(5, Duration::ZERO),
            vec!["0ns", "microseconds"],
        ),
        (
            Quota::try_token_bucket(5, Duration::from_nanos(1_500)),
            vec!["1.5µs", "microseconds"],
        ),
        (
            Quota::try_fixed_window(5, Duration::from_micros(999)),
            vec!["999µs", "milliseconds"],
        ),
        (
            Quota::try_sliding_window(5, Duration::from_micros(1_500)),
            vec!["1.5ms", "milliseconds"],
        ),
        (
            Quota::try_fixed_window(5, years),
            vec!["315705600s", "ten years"],
        ),
        (Quota::try_token_bucket(5, Duration::MAX), vec!["ten years"]),
        (
            Quota::per_day(1).try_burst(4_000),
            vec!["345600000 s to fill", "smaller burst"],
        ),
        (
            Quota::try_token_bucket(u32::MAX, SECOND),
            vec!["2^53", "smaller burst"],
        ),
        (
            Quota::try_sliding_window(u32::MAX, years / 2),
            vec!["4294967295 × 157852800000", "2^53"],
        ),
        (
            Quota::sliding_window(5, SECOND).try_burst(9),
            vec!["only a token bucket has a burst"],
        ),
    ] {
        let error = quota.expect_err("it is no quota").to_string();
        for part in said {
            assert!(error.contains(part), "`{error}` does not say `{part}`");
        }
    }
}

#[test]
fn texts_that_make_no_quota_are_refused_with_examples() {
    for text in [
        "",
        " ",
        "5",
        "5/",
        "/1s",
        "x/1s",
        "-5/1s",
        "+5/1s",
        "5/1y",
        "5/1",
        "5/s5",
        "5/1s burst",
        "5/1s burst x",
        "5/1s burst 5 6",
        "5/1s 10",
        "rolling 5/1s",
        "sliding",
        "fixed 5",
        "99999999999/1s",
        "5/99999999999999999999s",
        "5 / 1s",
    ] {
        let error = text.parse::<Quota>().expect_err(text).to_string();
        assert!(
            error.contains(&format!("`{text}`")) && error.contains("100/1m burst 20"),
            "{error}"
        );
    }
    // Readable, but no quota.
    for text in [
        "0/1s",
        "5/1s burst 0",
        "sliding 5/1s burst 5",
        "fixed 5/100us",
        "5/99999d",
    ] {
        let error = text.parse::<Quota>().expect_err(text).to_string();
        assert!(!error.contains("is no quota"), "{error}");
    }
    let long = "9"
        .repeat(1_000_000)
        .parse::<Quota>()
        .expect_err("a megabyte")
        .to_string();
    assert!(long.len() < 500, "the error shows a part of a long text");
}

#[test]
fn texts_are_short_and_canonical() {
    for (text, canonical) in [
        ("5/1s", "5/1s"),
        ("5/s", "5/1s"),
        (" 100/60s  burst  100 ", "100/1m"),
        ("100/1m burst 20", "100/1m burst 20"),
        ("sliding 100/60m", "sliding 100/1h"),
        ("fixed 10/24h", "fixed 10/1d"),
        ("10/90s", "10/90s"),
        ("7/1500us", "7/1500us"),
        ("7/1500ms", "7/1500ms"),
    ] {
        assert_eq!(text.parse::<Quota>().unwrap().to_string(), canonical);
    }
    assert_eq!(
        format!("{:?}", Quota::per_second(5).burst(10)),
        "Quota(5/1s burst 10)"
    );
}

#[test]
fn constructors_say_what_is_wrong_when_they_panic() {
    type Make = fn() -> Quota;
    let panics: [(Make, &str); 4] = [
        (|| Quota::per_second(0), "limit must be at least 1"),
        (|| Quota::per_second(1).burst(0), "burst must be at least 1"),
        (|| Quota::fixed_window(1, Duration::ZERO), "milliseconds"),
        (|| Quota::per_second(u32::MAX), "cannot be counted exactly"),
    ];
    for (make, said) in panics {
        let panic = std::panic::catch_unwind(make).expect_err(said);
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap();
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn ordinary_plans_fit() {
    for (limit, days) in [
        (123_457, 1),
        (5_003, 30),
        (9_999_991, 1),
        (1, 3_650),
        (1_000_000, 365),
    ] {
        let period = Duration::from_secs(days * 86_400);
        Quota::try_token_bucket(limit, period).unwrap();
    }
    Quota::try_sliding_window(100_000, Duration::from_secs(30 * 86_400)).unwrap();
    let largest = Quota::token_bucket(1_000_000_000, SECOND);
    let (_, status): (State, Status) = largest.step(State::default(), NOW, 1_000_000_000);
    assert!(status.is_allowed());
    assert_eq!(status.reset_after(), SECOND);
}

#[test]
fn limits_are_one_to_eight_with_names_of_their_own() {
    let quota = Quota::per_second(1);
    let of = |count: usize| Limits::new((0..count).map(|i| Policy::new(format!("p{i}"), quota)));
    assert_eq!(of(MAX_POLICIES).unwrap().policies().len(), 8);
    assert!(
        of(0)
            .unwrap_err()
            .to_string()
            .contains("1 to 8 policies, not 0")
    );
    assert!(
        of(9)
            .unwrap_err()
            .to_string()
            .contains("1 to 8 policies, not 9")
    );

    let twice = Limits::new([
        Policy::new("api", quota),
        Policy::new("api", Quota::per_day(9)),
    ]);
    assert!(
        twice
            .unwrap_err()
            .to_string()
            .contains("two policies are named `api`")
    );

    for name in [
        "",
        "a b",
        "a\"b",
        "a:b",
        "{a}",
        "é",
        "a\r\nb",
        "a*",
        &"n".repeat(65),
    ] {
        let error = Limits::new([Policy::new(name, quota)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot be the name of a policy"), "{error}");
        assert!(error.contains("ASCII letters, digits"), "{error}");
        assert!(
            Scope::new(name)
                .unwrap_err()
                .to_string()
                .contains("a scope")
        );
    }
    let long = Limits::new([Policy::new("n".repeat(64), quota)]).unwrap();
    assert_eq!(long.policies()[0].name().len(), 64);
    assert_eq!(Limits::from(quota).policies()[0].name(), "default");
}

#[cfg(feature = "serde")]
#[test]
fn quotas_and_limits_are_read_from_a_configuration() {
    #[derive(Debug, serde::Deserialize, serde::Serialize)]
    struct Plan {
        quota: Quota,
        limits: Limits,
    }
    let text = r#"{"quota":"100/1m burst 20","limits":{"burst":"10/1s","daily":"10000/1d"}}"#;
    let plan: Plan = serde_json::from_str(text).unwrap();
    assert_eq!(plan.quota, Quota::per_minute(100).burst(20));
    assert_eq!(
        plan.limits.policies()[1],
        Policy::new("daily", Quota::per_day(10_000))
    );
    assert_eq!(serde_json::to_string(&plan).unwrap(), text);
    assert_eq!(
        serde_json::from_str::<Limits>("\"5/1s\"").unwrap(),
        Quota::per_second(5).into()
    );

    for (bad, said) in [
        ("\"0/1s\"", "at least 1"),
        ("7", "expected a quota such as"),
        ("{}", "1 to 8 policies, not 0"),
        (r#"{"a":"1/1s","a":"2/1s"}"#, "two policies are named `a`"),
        (r#"{"a b":"1/1s"}"#, "`a b` cannot be the name"),
    ] {
        let error = serde_json::from_str::<Limits>(bad).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
