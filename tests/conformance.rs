//! The stores of the crate pass the conformance suite that `tollgate` offers to other stores.

use tollgate::LocalStore;
use tollgate::store::conformance;
use tollgate::test_util::{Behavior, ManualClock, ProgrammableStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_store_conforms() {
    conformance::check(LocalStore::new()).await;
}

#[tokio::test]
async fn local_store_conforms_in_simulated_time() {
    let clock = ManualClock::new();
    conformance::check_with_clock(LocalStore::new().clock(clock.clone()), &clock).await;
}

#[tokio::test(start_paused = true)]
async fn asynchronous_store_conforms() {
    let store = ProgrammableStore::new();
    store.behave(Behavior::AnswerAfter(std::time::Duration::from_millis(5)));
    conformance::check(store).await;
}
