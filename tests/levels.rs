//! A check of a user within an organisation counts both: the organisation's limit holds for all of
//! its users together, each user has a limit of its own, and a denied check charges neither.

mod support;

use http::StatusCode;
use proptest::collection::vec;
use proptest::prelude::*;
use tollgate::{
    Check, Decision, Identity, Kind, Limiter, Limits, LocalStore, Policy, Quota, RateLimitLayer,
};

use support::{Request, send};

const ORG: Kind = Kind::new("org");
const TEAM: Kind = Kind::new("team");
const SITE: Kind = Kind::new("site");

fn user_of(org: &str, user: &str) -> Identity {
    Identity::user(user)
        .within(Identity::new(&ORG, org))
        .unwrap()
}

/// Three a day for each user, five for the organisation.
fn three_and_five() -> Limits {
    Limits::new([
        Policy::new("user", Quota::per_day(3)),
        Policy::new("org", Quota::per_day(5)).per(&ORG),
    ])
    .unwrap()
}

async fn check(limiter: &Limiter, identity: &Identity, limits: &Limits) -> Decision<'static> {
    limiter
        .check(&Check::new(identity, limits))
        .await
        .into_owned()
}

async fn remaining(limiter: &Limiter, identity: &Identity, quota: Quota, name: &str) -> u32 {
    let limits = Limits::new([Policy::new(name, quota)]).unwrap();
    limiter
        .peek(&Check::new(identity, &limits))
        .await
        .remaining()
}

#[tokio::test]
async fn each_level_has_its_own_limit() {
    let (limiter, limits) = (Limiter::from(LocalStore::new()), three_and_five());
    let [alice, bob] = ["alice", "bob"].map(|user| user_of("acme", user));
    for _ in 0..3 {
        assert!(check(&limiter, &alice, &limits).await.is_allowed());
    }
    let denied = check(&limiter, &alice, &limits).await;
    assert_eq!(denied.policy().name(), "user");
    for _ in 0..2 {
        assert!(check(&limiter, &bob, &limits).await.is_allowed());
    }
    let denied = check(&limiter, &bob, &limits).await;
    assert_eq!(denied.policy().name(), "org");
    assert_eq!(denied.policy().level(), Some(&ORG));
    // The organisation denied, so the user was not charged.
    assert_eq!(
        remaining(&limiter, &bob, Quota::per_day(3), "user").await,
        1
    );
    let other = user_of("other", "bob");
    assert!(check(&limiter, &other, &limits).await.is_allowed());
}

#[tokio::test]
async fn organisation_itself_shares_the_count() {
    let (limiter, limits) = (Limiter::from(LocalStore::new()), three_and_five());
    check(&limiter, &user_of("acme", "alice"), &limits).await;
    let acme = Identity::new(&ORG, "acme");
    assert_eq!(
        remaining(&limiter, &acme, Quota::per_day(5), "org").await,
        4
    );
}

#[tokio::test]
async fn reset_leaves_outer_levels() {
    let (limiter, limits) = (Limiter::from(LocalStore::new()), three_and_five());
    let alice = user_of("acme", "alice");
    for _ in 0..3 {
        check(&limiter, &alice, &limits).await;
    }
    limiter.reset(&Check::new(&alice, &limits)).await.unwrap();
    let acme = Identity::new(&ORG, "acme");
    let left = async |identity, quota, name| remaining(&limiter, identity, quota, name).await;
    assert_eq!(left(&alice, Quota::per_day(3), "user").await, 3);
    assert_eq!(left(&acme, Quota::per_day(5), "org").await, 2);

    let org_only = Limits::new([Policy::new("org", Quota::per_day(5)).per(&ORG)]).unwrap();
    limiter.reset(&Check::new(&alice, &org_only)).await.unwrap();
    assert_eq!(left(&acme, Quota::per_day(5), "org").await, 2);
    limiter.reset(&Check::new(&acme, &org_only)).await.unwrap();
    assert_eq!(left(&acme, Quota::per_day(5), "org").await, 5);
}

#[tokio::test]
async fn policy_without_its_level_does_not_apply() {
    let (limiter, limits) = (Limiter::from(LocalStore::new()), three_and_five());
    let alice = Identity::user("alice");
    for _ in 0..3 {
        let decision = check(&limiter, &alice, &limits).await;
        assert!(decision.is_allowed());
        assert_eq!(decision.policy().name(), "user");
    }
    assert!(!check(&limiter, &alice, &limits).await.is_allowed());
}

#[tokio::test]
async fn check_without_an_applicable_policy_is_denied() {
    let limiter = Limiter::from(LocalStore::new());
    let org_only = Limits::new([Policy::new("org", Quota::per_day(5)).per(&ORG)]).unwrap();
    let decision = check(&limiter, &Identity::user("alice"), &org_only).await;
    assert!(!decision.is_allowed() && !decision.is_degraded());
    assert_eq!(decision.retry_after(), None);

    let layer =
        RateLimitLayer::new(org_only, limiter).identify_by(|parts: &http::request::Parts| {
            let user = Identity::user("alice");
            match parts.headers.contains_key("org") {
                true => Ok(user.within(Identity::new(&ORG, "acme"))?),
                false => Ok(user),
            }
        });
    let without = send(&layer, Request::default()).await;
    assert_eq!(without.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let mut request = Request::default();
    request.headers_mut().insert("org", "acme".parse().unwrap());
    assert_eq!(send(&layer, request).await.status(), StatusCode::OK);
}

#[test]
fn levels_have_distinct_kinds_and_are_at_most_four() {
    let nested = Identity::user("alice")
        .within(Identity::new(&TEAM, "red"))
        .and_then(|user| user.within(Identity::new(&ORG, "acme")))
        .and_then(|user| user.within(Identity::new(&SITE, "eu")))
        .unwrap();
    assert_eq!(
        nested.to_string(),
        "user:alice in team:red in org:acme in site:eu"
    );
    let red = nested.level(&TEAM).unwrap();
    assert_eq!(red.to_string(), "team:red in org:acme in site:eu");
    assert_eq!(nested.level(&Kind::IP), None);

    let fifth = nested
        .clone()
        .within(Identity::new(&Kind::new("planet"), "earth"));
    let error = fifth.unwrap_err();
    assert!(error.is_level_count(), "{error}");
    let twice = user_of("acme", "alice").within(Identity::new(&ORG, "other"));
    let error = twice.unwrap_err();
    assert!(error.is_duplicate_kind(), "{error}");
    assert!(error.to_string().contains("`org`"), "{error}");
}

#[tokio::test]
async fn empty_outer_value_is_no_identity() {
    let layer = RateLimitLayer::new(three_and_five(), LocalStore::new())
        .identify_by(|_: &http::request::Parts| Ok(user_of("", "alice")));
    let response = send(&layer, Request::default()).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

proptest! {
    #[test]
    fn identities_are_equal_only_if_all_levels_are(
        (one, other) in (vec("[ab:#{ ]{0,3}", 1..4), vec("[ab:#{ ]{0,3}", 1..4)),
    ) {
        let kinds = [Kind::USER, TEAM, ORG];
        let nested = |values: &[String]| {
            let mut levels = kinds.iter().zip(values).map(|(kind, value)| Identity::new(kind, value));
            let innermost = levels.next().unwrap();
            levels.fold(innermost, |inner, outer| inner.within(outer).unwrap())
        };
        prop_assert_eq!(nested(&one) == nested(&other), one == other);
        prop_assert_eq!(nested(&one).to_string() == nested(&other).to_string(), one == other);
    }
}
