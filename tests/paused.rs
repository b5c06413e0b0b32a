//! Tokio's clock is paused before this process has read the time. The file has one test, since no
//! other may read the time first.

use std::time::Duration;

use tokio::time::advance;
use tollgate::{Check, Identity, Limiter, LocalStore, Quota};

#[tokio::test(start_paused = true)]
async fn token_is_available_when_the_paused_clock_advances() {
    // Lets real time pass between the pause and the first reading.
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
