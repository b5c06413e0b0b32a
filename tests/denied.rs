//! The error `Denied`, its response, and the headers of a decision.

mod support;

use std::time::Duration;

use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};
use tollgate::{
    Check, Decision, Denied, FailureStrategy, Identity, Limiter, Limits, LocalStore, Quota,
    RateLimitLayer, ResponseHeaders, StoreErrorKind,
};

use support::{header, request, send, text};

/// Checks this cost of `alice` under a quota of three a minute.
async fn check(limiter: &Limiter, cost: u32) -> Result<Decision<'static>, Denied> {
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_minute(3)));
    let check = Check::new(&alice, &limits).cost(cost);
    limiter.check(&check).await.into_owned().into_result()
}

fn local_limiter() -> Limiter {
    LocalStore::new().clock(ManualClock::new()).into()
}

#[tokio::test]
async fn allowed_decision_is_no_error() {
    let decision = check(&local_limiter(), 2).await.unwrap();
    assert_eq!(decision.remaining(), 1);
}

#[tokio::test]
async fn denied_has_the_decision() {
    let limiter = local_limiter();
    check(&limiter, 3).await.unwrap();
    let denied = check(&limiter, 2).await.unwrap_err();
    let decision = denied.decision();
    assert!(!decision.is_allowed() && !decision.is_refused());
    assert_eq!(decision.retry_after(), Some(Duration::from_secs(40)));
    assert_eq!(
        denied.to_string(),
        "rate limit exceeded: policy `default` allows 3/1m; retry after 40s"
    );
}

#[tokio::test]
async fn cost_above_capacity_is_never_allowed() {
    let denied = check(&local_limiter(), 4).await.unwrap_err();
    assert_eq!(
        denied.to_string(),
        "rate limit exceeded: policy `default` allows 3/1m; the same check can never be allowed"
    );
}

#[tokio::test]
async fn refusal_names_the_store() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let limiter = Limiter::from(store).failure_strategy(FailureStrategy::Closed);
    let denied = check(&limiter, 1).await.unwrap_err();
    assert!(denied.decision().is_refused());
    let text = denied.to_string();
    assert!(
        text.starts_with("the rate limiter's store is unavailable; retry after "),
        "{text}"
    );
}

#[tokio::test]
async fn denied_response_equals_the_rejection_of_a_layer() {
    let limiter = local_limiter();
    let layer = RateLimitLayer::new(Quota::per_minute(3), limiter.clone());
    check(&limiter, 3).await.unwrap();
    let denied = check(&limiter, 1).await.unwrap_err();
    let rejected = send(&layer, request("alice")).await;
    let response = denied.response();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers(), rejected.headers());
    let from_handler = denied.into_response();
    assert_eq!(from_handler.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(from_handler.headers(), rejected.headers());
    let rejected = text(rejected).await;
    assert_eq!(text(response).await, rejected);
    assert_eq!(text(from_handler).await, rejected);
}

#[tokio::test]
async fn refused_response_says_reduced_capacity() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let limiter = Limiter::from(store).failure_strategy(FailureStrategy::Closed);
    let response = check(&limiter, 1).await.unwrap_err().response();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
    assert!(header(&response, "retry-after").is_some());
    let body = text(response).await;
    assert!(body.contains("temporary-reduced-capacity"), "{body}");
}

#[tokio::test]
async fn headers_of_a_decision_follow_the_chosen_set() {
    let limiter = local_limiter();
    let allowed = check(&limiter, 1).await.unwrap();
    let headers = allowed.headers();
    for (name, value) in [
        ("x-ratelimit-limit", "3"),
        ("x-ratelimit-remaining", "2"),
        ("x-ratelimit-reset", "20"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(headers.len(), 3);

    let denied = check(&limiter, 3).await.unwrap_err();
    let mut headers: HeaderMap = headers;
    ResponseHeaders::ietf().write(denied.decision(), &mut headers);
    assert_eq!(headers["ratelimit-policy"], r#""default";q=3;w=60"#);
    assert_eq!(headers["ratelimit"], r#""default";r=2;t=20"#);
    assert_eq!(headers["retry-after"], "20");
    assert_eq!(headers.len(), 3, "the numbers of another set are removed");

    // A cost above the capacity is never allowed.
    let never = check(&limiter, 4).await.unwrap_err();
    ResponseHeaders::none().write(never.decision(), &mut headers);
    assert!(!headers.contains_key("retry-after"));
}
