//! A Redis store is bound to no Tokio runtime: it is built outside of one, is shared by several and
//! outlives them.

#[path = "support/redis/mod.rs"]
mod servers;

use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use servers::Server;
use tokio::runtime::{Builder, Runtime};
use tollgate::store::Outcome;
use tollgate::{Check, Identity, Limits, Quota, RedisStore, Store, StoreErrorKind};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Makes a check of cost 1 for `alice`, and returns what is left.
async fn charge(store: &RedisStore) -> u32 {
    let quota = Quota::per_day(1_000);
    let (alice, limits) = (Identity::user("alice"), Limits::from(quota));
    let verdict = store.check(&Check::new(&alice, &limits)).wait().await;
    let verdict = verdict.unwrap();
    let (_, status) = quota.step(verdict.states()[0], verdict.now(), 1);
    status.remaining()
}

#[test]
fn connection_of_an_ended_runtime_is_replaced() {
    let first = runtime();
    let server = first.block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    for used in 1..=5 {
        assert_eq!(runtime().block_on(charge(&store)), 1_000 - used);
    }
}

#[test]
fn several_runtimes_share_a_store() {
    let main = runtime();
    let server = main.block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    // No runtime ends before all checks are done, so any of them may own the connection.
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
                        charge(&store).await;
                    }
                });
                done.wait();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(main.block_on(charge(&store)), 1_000 - 401);
}

#[test]
fn check_outside_a_runtime_fails_with_the_cause() {
    let store = RedisStore::new("redis://127.0.0.1:1").unwrap();
    let (alice, limits) = (Identity::user("alice"), Limits::from(Quota::per_day(1)));
    let Outcome::Ready(Err(error)) = store.check(&Check::new(&alice, &limits)) else {
        panic!("a pending check could not be awaited");
    };
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("Tokio runtime"), "{source}");
}

#[test]
fn blocked_runtime_does_not_block_others() {
    let main = runtime();
    let server = main.block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    let (finish, finished) = mpsc::channel::<()>();
    let (block, blocked) = mpsc::channel();
    let busy = thread::spawn({
        let store = store.clone();
        move || {
            runtime().block_on(async {
                charge(&store).await;
                // A check is in flight when another task blocks the runtime.
                let in_flight = tokio::spawn({
                    let store = store.clone();
                    async move { charge(&store).await }
                });
                tokio::task::yield_now().await;
                block.send(()).unwrap();
                finished.recv().unwrap();
                drop(in_flight);
            });
        }
    });
    blocked.recv().unwrap();
    for _ in 0..10 {
        main.block_on(charge(&store));
    }
    finish.send(()).unwrap();
    busy.join().unwrap();
}

#[test]
fn runtimes_in_block_on_share_a_store() {
    let runtimes = [runtime(), runtime()];
    let server = runtimes[0].block_on(Server::start());
    let store = RedisStore::new(&server.url()).unwrap();
    for used in 1..=20 {
        let runtime = &runtimes[used % 2];
        assert_eq!(runtime.block_on(charge(&store)) as usize, 1_000 - used);
    }
}
