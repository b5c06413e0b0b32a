//! A clock that is paused before anything else has asked for the time.

use std::time::Duration;

use tokio::time::advance;
use tollgate::{Check, Identity, Limiter, LocalStore, Quota};

#[tokio::test(start_paused = true)]
async fn a_token_is_there_as_soon_as_a_paused_clock_says_so() {
    // Time passes by the real clock between the pause and the first reading.
    let paused = std::time::Instant::now();
    while paused.elapsed() < Duration::from_millis(2) {
        std::hint::spin_loop();
    }
    let limiter = Limiter::from(LocalStore::new());
    let (alice, limits) = (Identity::user("alice"), Quota::per_second(1).into());
    let check = Check::new(&alice, &limits);

    assert!(limiter.check(&check).await.is_allowed());
    advance(Duration::from_secs(1)).await;
    assert!(limiter.check(&check).await.is_allowed());
}
