//! Every store decides alike: the suite that `tollgate` offers to stores, run on its own.

use tollgate::LocalStore;
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_local_store_conforms() {
    conformance::check(LocalStore::new()).await;
}

#[tokio::test]
async fn the_local_store_follows_the_algorithms_through_time() {
    let clock = ManualClock::new();
    conformance::check_with_clock(LocalStore::new().clock(clock.clone()), &clock).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_its_time_conforms() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::AnswerAfter(std::time::Duration::from_millis(5)));
    conformance::check(store).await;
}
