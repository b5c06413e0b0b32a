//! Quotas and limits: invalid numbers and texts are refused with an error that names the fix, and
//! the text of a quota can be parsed again.

use std::time::Duration;

use proptest::prelude::*;
use tollgate::store::State;
use tollgate::{Limits, MAX_POLICIES, Policy, Quota, Scope, Status};

const SECOND: Duration = Duration::from_secs(1);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn text_of_a_quota_parses_to_the_same_quota(
        algorithm in 0..4, limit in 1..100_000u32, ticks in 1..1_000_000u64, burst in 1..100_000u32,
        queue in 1..100_000u32,
    ) {
        let quota = match algorithm {
            0 => Quota::try_sliding_window(limit, Duration::from_millis(ticks)),
            1 => Quota::try_fixed_window(limit, Duration::from_millis(ticks)),
            2 => Quota::try_token_bucket(limit, Duration::from_micros(ticks))
                .and_then(|quota| quota.try_queue(queue)?.try_burst(burst)),
            _ => Quota::try_token_bucket(limit, Duration::from_micros(ticks))
                .and_then(|quota| quota.try_burst(burst)),
        };
        if let Ok(quota) = quota {
            prop_assert_eq!(quota.to_string().parse::<Quota>().unwrap(), quota);
        }
    }

    #[test]
    fn parser_never_panics(text in "\\PC{0,40}", numbers in "[0-9/smhdu ]{0,30}") {
        let _ = text.parse::<Quota>();
        let _ = numbers.parse::<Quota>();
        let _ = format!("sliding {numbers}").parse::<Quota>();
    }
}

#[test]
fn invalid_numbers_are_refused_with_the_fix() {
    let years = Duration::from_secs(3_654 * 86_400);
    let fine = Quota::per_second(5);
    for (quota, expected) in [
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
            vec!["a period of 0s", "microseconds"],
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
        (
            Quota::sliding_window(5, SECOND).try_queue(9),
            vec!["only a token bucket has a queue"],
        ),
        (
            Quota::fixed_window(5, SECOND).try_queue(9),
            vec!["only a token bucket has a queue"],
        ),
        (
            Quota::per_second(5).try_queue(0),
            vec!["queue must be at least 1", "leave it out"],
        ),
        (
            Quota::per_second(10).try_queue(36_001),
            vec![
                "a queue of 36001",
                "3601 s",
                "within an hour",
                "shorter queue",
            ],
        ),
        (
            // The fewest tokens whose product with the denominator is 2^53 or more: 90,072,003.
            Quota::per_day(99_999_989)
                .burst(90_000_000)
                .try_queue(72_003),
            vec![
                "90072003 × 99999989",
                "2^53",
                "smaller burst, queue or limit",
            ],
        ),
        (
            Quota::try_concurrent(0),
            vec!["a quota's limit must be at least 1"],
        ),
        (
            Quota::per_second(5).try_reserve_for(Duration::ZERO),
            vec!["a reservation of 0s", "from a second to a day"],
        ),
        (
            Quota::concurrent(5).try_reserve_for(Duration::from_secs(86_401)),
            vec!["a reservation of 86401s", "from a second to a day"],
        ),
        (
            Quota::per_second(5).try_reserve_for(Duration::from_micros(1_500_500)),
            vec!["1.5005s", "whole number of milliseconds"],
        ),
        (
            Quota::fixed_window(5, SECOND).try_reserve_for(SECOND),
            vec!["a window does not reserve"],
        ),
        (
            Quota::per_second(5).queue(5).try_reserve_for(SECOND),
            vec!["cannot both queue and reserve", "a policy of its own"],
        ),
        (
            // The overdraft doubles the burst.
            Quota::per_day(99_999_989)
                .burst(90_000_000)
                .try_reserve_for(SECOND),
            vec!["180000000 × 99999989", "2^53"],
        ),
    ] {
        let error = quota.expect_err("an invalid quota").to_string();
        for part in expected {
            assert!(error.contains(part), "no `{part}` in `{error}`");
        }
    }
}

#[test]
fn reserving_quota_is_parsed_from_its_text() {
    for (quota, text) in [
        (Quota::concurrent(5), "concurrent 5"),
        (
            Quota::concurrent(5).reserve_for(30 * SECOND),
            "concurrent 5",
        ),
        (
            Quota::concurrent(5).reserve_for(600 * SECOND),
            "concurrent 5 reserve 10m",
        ),
        (
            Quota::per_minute(100).burst(20).reserve_for(30 * SECOND),
            "100/1m burst 20 reserve 30s",
        ),
    ] {
        assert_eq!(quota.to_string(), text);
        assert_eq!(text.parse(), Ok(quota));
    }
}

#[test]
fn invalid_texts_are_refused_with_examples() {
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
        "5/1s burst 5 burst 6",
        "5/1s reserve",
        "5/1s reserve 5",
        "5/1s reserve 1m reserve 1m",
        "concurrent",
        "concurrent 5/1s",
        "concurrent five",
        "5/1s queue",
        "5/1s queue x",
        "5/1s queue 5 queue 6",
        "5/1s 10",
        "rolling 5/1s",
        "sliding",
        "fixed 5",
        "5/99999999999999999999s",
        "5 / 1s",
    ] {
        let error = text.parse::<Quota>().expect_err(text).to_string();
        assert!(
            error.contains(&format!("`{text}`")) && error.contains("100/1m burst 20"),
            "{error}"
        );
    }
    // Valid syntax with invalid numbers.
    for (text, problem) in [
        ("0/1s", "a quota's limit must be at least 1"),
        ("5/1s burst 0", "a quota's burst must be at least 1"),
        ("sliding 5/1s burst 5", "only a token bucket has a burst"),
        ("5/1s queue 0", "a quota's queue must be at least 1"),
        ("concurrent 0", "a quota's limit must be at least 1"),
        ("concurrent 5 burst 6", "only a token bucket has a burst"),
        ("concurrent 5 queue 6", "only a token bucket has a queue"),
        ("5/1s reserve 1ms", "a reservation of 1ms is invalid"),
        ("sliding 5/1s reserve 1m", "a window does not reserve"),
        ("sliding 5/1s queue 5", "only a token bucket has a queue"),
        (
            "1/1h queue 2",
            "the last place in a queue of 2 would wait for 7200 s",
        ),
        ("5/1s queue 4294967296", "the queue 4294967296 exceeds"),
        ("fixed 5/100us", "a period of 100µs is not"),
        ("100/0s", "a period of 0s is not"),
        ("5/99999d", "a period of 8639913600s is too long"),
        ("99999999999/1s", "the limit 99999999999 exceeds 4294967295"),
        ("5/1s burst 4294967296", "the burst 4294967296 exceeds"),
    ] {
        let error = text.parse::<Quota>().expect_err(text).to_string();
        let expected = format!("`{text}`: {problem}");
        assert!(error.starts_with(&expected), "{error}");
    }
    let long = "9"
        .repeat(1_000_000)
        .parse::<Quota>()
        .expect_err("a megabyte")
        .to_string();
    assert!(
        long.len() < 500,
        "the error quotes only a part of a long text"
    );
}

#[test]
fn text_of_a_quota_is_short_and_canonical() {
    for (text, canonical) in [
        ("5/1s", "5/1s"),
        ("5/s", "5/1s"),
        (" 100/60s  burst  100 ", "100/1m"),
        ("100/1m burst 20", "100/1m burst 20"),
        ("10/1s burst 5 queue 20", "10/1s burst 5 queue 20"),
        ("10/1s queue 20 burst 5", "10/1s burst 5 queue 20"),
        ("10/1s burst 10 queue 20", "10/1s queue 20"),
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
fn constructors_panic_with_the_cause() {
    type Make = fn() -> Quota;
    let panics: [(Make, &str); 6] = [
        (|| Quota::per_second(1).queue(0), "queue must be at least 1"),
        (|| Quota::per_hour(1).queue(2), "within an hour"),
        (|| Quota::per_second(0), "limit must be at least 1"),
        (|| Quota::per_second(1).burst(0), "burst must be at least 1"),
        (|| Quota::fixed_window(1, Duration::ZERO), "milliseconds"),
        (
            || Quota::per_second(u32::MAX).burst(u32::MAX),
            "cannot be counted exactly",
        ),
    ];
    for (make, expected) in panics {
        let panic = std::panic::catch_unwind(make).expect_err(expected);
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn ordinary_quotas_are_accepted() {
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
    let (_, status): (State, Status) = largest.step(State::default(), 0, 1_000_000_000);
    assert!(status.is_allowed());
    assert_eq!(status.reset_after(), SECOND);
}

#[test]
fn limits_have_one_to_eight_distinct_policies() {
    let quota = Quota::per_second(1);
    let limits_of =
        |count: usize| Limits::new((0..count).map(|i| Policy::new(format!("p{i}"), quota)));
    assert_eq!(limits_of(MAX_POLICIES).unwrap().policies().len(), 8);
    assert!(
        limits_of(0)
            .unwrap_err()
            .to_string()
            .contains("1 to 8 policies, not 0")
    );
    assert!(
        limits_of(9)
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
fn quotas_and_limits_deserialize() {
    #[derive(Debug, serde::Deserialize, serde::Serialize)]
    struct Plan {
        quota: Quota,
        limits: Limits,
    }
    let text =
        r#"{"quota":"100/1m burst 20","limits":{"burst":"10/1s queue 5","daily":"10000/1d"}}"#;
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

    for (text, expected) in [
        ("\"0/1s\"", "at least 1"),
        ("7", "expected a quota such as"),
        ("{}", "1 to 8 policies, not 0"),
        (r#"{"a":"1/1s","a":"2/1s"}"#, "two policies are named `a`"),
        (r#"{"a b":"1/1s"}"#, "`a b` cannot be the name"),
        (
            r#"{"a":"1/1s queue 1","b":"2/1s queue 1"}"#,
            "both have a queue",
        ),
    ] {
        let error = serde_json::from_str::<Limits>(text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn smaller_burst_makes_an_inexact_rate_exact() {
    const DAY: Quota = Quota::per_day(99_999_989).burst(1_000);
    let text: Quota = "99999989/1d burst 1000".parse().unwrap();
    let day = Duration::from_secs(86_400);
    let tried = Quota::try_token_bucket_with_burst(99_999_989, day, 1_000);
    assert_eq!([text, tried.unwrap()], [DAY, DAY]);
    assert_eq!((DAY.limit(), DAY.capacity()), (99_999_989, 1_000));
    Policy::new("exact", DAY);
}

#[test]
fn queue_and_burst_are_set_in_either_order() {
    const ONE: Quota = Quota::per_day(99_999_989).queue(1_000).burst(500);
    const TWO: Quota = Quota::per_day(99_999_989).burst(500).queue(1_000);
    assert_eq!(ONE, TWO);
    assert_eq!(
        (ONE.limit(), ONE.capacity(), ONE.queued()),
        (99_999_989, 500, 1_000)
    );
    assert_eq!(Quota::per_day(1).queued(), 0);
    // The largest queue is served in exactly an hour.
    assert_eq!(Quota::per_hour(60).queue(60).queued(), 60);
}

#[test]
fn limits_have_one_queue_at_most() {
    let queue = Quota::per_second(10).queue(5);
    let one = [
        Policy::new("queue", queue),
        Policy::new("daily", Quota::per_day(100)),
    ];
    assert!(Limits::new(one).is_ok());
    let error = Limits::new(["user", "org"].map(|name| Policy::new(name, queue))).unwrap_err();
    assert!(error.is_several_queues());
    let text = error.to_string();
    assert!(
        text.contains("`user` and `org` both have a queue"),
        "{text}"
    );
}

#[test]
fn inexact_quota_is_refused_by_parse_and_try() {
    let day = Duration::from_secs(86_400);
    for refused in [
        "99999989/1d".parse::<Quota>(),
        "99999989/1d burst 99999989".parse(),
        Quota::try_token_bucket(99_999_989, day),
        Quota::per_day(99_999_989).try_burst(99_999_990),
        Quota::per_day(99_999_989).try_queue(1),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("2^53"), "{error}");
    }
}

#[test]
fn inexact_quota_is_refused_by_its_policy() {
    let inexact = Quota::per_day(99_999_989);
    let refused = std::panic::catch_unwind(|| Limits::from(inexact)).unwrap_err();
    let message = refused.downcast_ref::<String>().unwrap();
    assert!(
        message.contains("99999989/1d") && message.contains("2^53"),
        "{message}"
    );
}

#[test]
fn fixed_window_accepts_any_limit_in_any_period() {
    let now = 1_700_000_000_000_000;
    for text in [
        "fixed 10000000/30d",
        "fixed 4294967295/3650d",
        "fixed 4294967295/1ms",
    ] {
        let quota: Quota = text.parse().unwrap();
        let limit = quota.limit();
        let (state, status) = quota.step(State::default(), now, limit - 1);
        assert_eq!(
            (status.is_allowed(), status.remaining()),
            (true, 1),
            "{text}"
        );
        assert!(!quota.step(state, now, 2).1.is_allowed(), "{text}");
        let (state, _) = quota.step(state, now, 1);
        let denied = quota.step(state, now, 1).1;
        let wait = denied.retry_after().unwrap();
        assert!(
            quota
                .step(state, now + wait.as_micros() as u64, limit)
                .1
                .is_allowed()
        );
    }
}
