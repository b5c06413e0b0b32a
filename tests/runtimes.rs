//! A store belongs to no runtime: it is made outside of any, and outlives those that use it.

#[path = "support/redis/mod.rs"]
mod servers;

use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use servers::Server;
use tokio::runtime::{Builder, Runtime};
use tollgate::{Check, Identity, Limits, Outcome, Quota, RedisStore, Store, StoreErrorKind};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Counts one, and says what is left.
async fn left(store: &RedisStore) -> u32 {
    let quota = Quota::per_day(1_000);
    let (alice, limits) = (Identity::user("alice"), Limits::from(quota));
    let verdict = store.check(&Check::new(&alice, &limits)).wait().await;
    let verdict = verdict.unwrap();
    let (_, status) = quota.step(verdict.states()[0], verdict.now(), 1);
    status.remaining()
}

#[test]
fn a_connection_that_ended_with_its_runtime_is_replaced_unnoticed() {
    let first = runtime();
    let server = first.block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    for used in 1..=5 {
        assert_eq!(runtime().block_on(left(&store)), 1_000 - used);
    }
}

#[test]
fn several_runtimes_share_a_store() {
    let main = runtime();
    let server = main.block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    // Whichever has the connection, all of them get their answers, while all of them live.
    let done = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (store, done) = (store.clone(), done.clone());
            thread::spawn(move || {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build();
                let runtime = runtime.unwrap();
                runtime.block_on(async {
                    for _ in 0..100 {
                        left(&store).await;
                    }
                });
                done.wait();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(main.block_on(left(&store)), 1_000 - 401);
}

#[test]
fn outside_of_any_runtime_a_check_says_what_is_missing() {
    let store = RedisStore::new("redis://127.0.0.1:1").unwrap();
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let Outcome::Ready(Err(error)) = store.check(&Check::new(&alice, &limits)) else {
        panic!("nobody could wait for it");
    };
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("Tokio runtime"), "{source}");
}

#[test]
fn a_runtime_that_is_busy_does_not_hold_up_the_others() {
    let main = runtime();
    let server = main.block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    let (tell, told) = mpsc::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let busy = thread::spawn({
        let store = store.clone();
        move || {
            runtime().block_on(async {
                left(&store).await;
                // A check is under way when the handler of another request computes.
                let under_way = tokio::spawn({
                    let store = store.clone();
                    async move { left(&store).await }
                });
                tokio::task::yield_now().await;
                ready.send(()).unwrap();
                told.recv().unwrap();
                drop(under_way);
            });
        }
    });
    is_ready.recv().unwrap();
    for _ in 0..10 {
        main.block_on(left(&store));
    }
    tell.send(()).unwrap();
    busy.join().unwrap();
}

#[test]
fn runtimes_that_only_run_for_their_checks_can_share_a_store() {
    let runtimes = [runtime(), runtime()];
    let server = runtimes[0].block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    for used in 1..=20 {
        let runtime = &runtimes[used % 2];
        assert_eq!(runtime.block_on(left(&store)) as usize, 1_000 - used);
    }
}
