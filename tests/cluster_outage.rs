//! Nodes of a cluster go, and only those are missed whose counts they had, until somebody else has
//! them.

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/spender.rs"]
mod support;

use std::time::Duration;

use futures_util::future::join_all;
use servers::{Cluster, Proxy, Server, Wait};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tollgate::{Check, Limiter, Limits, Outcome, RedisStore, Store};

use support::{NEVER_LATE, QUOTA, SOON, User, names_in, replicated, strict};

/// What the first of the nodes has at first. The others have the rest.
const FIRST: u16 = 5_461;

/// A cluster in which other shards go on when one is gone.
async fn start() -> Cluster {
    let cluster = Cluster::start().await;
    let words = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
    join_all(cluster.nodes().iter().map(|node| node.command(&words))).await;
    cluster
}

fn store<'a>(urls: impl IntoIterator<Item = &'a String>) -> RedisStore {
    let urls = urls.into_iter().map(String::as_str);
    RedisStore::cluster(urls).build().unwrap()
}

/// A user whose counts the first node has.
fn victim() -> User {
    User::new(&names_in(0..FIRST).next().unwrap())
}

/// Users of the other nodes, who ask all the time and are never to notice anything.
struct Bystanders {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Bystanders {
    fn ask(limiter: &Limiter) -> Self {
        let limiter = limiter.clone();
        let (stop, mut stopped) = oneshot::channel();
        let names = names_in(FIRST + 1..16_384).take(8);
        let users: Vec<_> = names.map(|name| User::new(&name)).collect();
        let task = tokio::spawn(async move {
            while stopped.try_recv().is_err() {
                for user in &users {
                    assert!(user.is_decided(&limiter).await, "{}", user.identity);
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { stop, task }
    }

    async fn stop(self) {
        // If they have noticed something, nobody hears it, and the task's panic says what it was.
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_dies_is_followed_and_a_dead_shard_takes_no_other_with_it() {
    let cluster = start().await;
    let store_here = store(&cluster.urls());
    let [patient, limiter] = [NEVER_LATE, SOON].map(|deadline| strict(&store_here, deadline));
    let mut victim = victim();
    let slot = cluster.slot_of(&victim.tag()).await;
    victim.spend(&patient, 4).await;
    let lane = store_here.lane(&Check::new(&victim.identity, &victim.limits));
    replicated(&cluster.nodes()[0], &victim.tag()).await;
    let bystanders = Bystanders::ask(&limiter);

    cluster.kill(0);
    victim.until_degraded(&limiter).await;
    let heir = cluster.new_primary_of(slot, 0).await;
    victim.until_decided(&limiter).await;
    victim.spend_the_rest(&patient).await;
    let unused = store_here.probe(lane, servers::PATIENCE);
    assert!(matches!(unused, Outcome::Ready(Ok(_))), "nobody goes there");

    cluster.kill(heir);
    victim.until_degraded(&limiter).await;
    for _ in 0..20 {
        assert!(!victim.is_decided(&limiter).await);
        sleep(Duration::from_millis(20)).await;
    }
    let newcomer = store(&cluster.urls());
    newcomer.ping().await.expect_err("a node is away");
    let mut other = User::new(&names_in(FIRST + 1..16_384).next().unwrap());
    other.spend(&strict(&newcomer, NEVER_LATE), 1).await;
    let known = newcomer.probe(0, servers::PATIENCE);
    assert!(
        matches!(known, Outcome::Ready(Ok(_))),
        "all slots are known"
    );

    cluster.nodes()[heir].restart().await;
    victim.until_decided(&limiter).await;
    bystanders.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_stands_still_is_followed_and_may_come_back_as_a_replica() {
    let cluster = start().await;
    let store = store(&cluster.urls());
    let [patient, limiter] = [NEVER_LATE, SOON].map(|deadline| strict(&store, deadline));
    let mut victim = victim();
    let slot = cluster.slot_of(&victim.tag()).await;
    victim.spend(&patient, 4).await;
    let paused = &cluster.nodes()[0];
    replicated(paused, &victim.tag()).await;
    let bystanders = Bystanders::ask(&limiter);

    paused.pause();
    victim.until_degraded(&limiter).await;
    cluster.new_primary_of(slot, 0).await;
    victim.until_decided(&limiter).await;
    victim.spend(&patient, 2).await;

    paused.resume();
    let wait = Wait::until("the old primary knows that it is none");
    while paused.is_primary().await {
        victim.until_decided(&limiter).await;
        wait.on().await;
    }
    cluster.primary_of(slot).await;
    victim.spend_the_rest(&patient).await;
    bystanders.stop().await;
}

#[tokio::test]
async fn seeds_that_are_of_no_use_are_passed_over_and_tried_again() {
    let cluster = start().await;
    let dead = Server::start().await;
    dead.kill();
    let alone = Server::start().await;
    let error = store(&[alone.url()]).ping().await.expect_err("no cluster");
    assert!(
        format!("{error:?}").contains("cluster support disabled"),
        "{error:?}"
    );
    let blank = Server::start_with(&["--cluster-enabled", "yes"]).await;
    let living = &cluster.nodes()[4];
    for _ in 0..10 {
        // They are asked in random order.
        let seeds = [&dead, &alone, &blank, living].map(Server::url);
        let limiter = strict(&store(&seeds), NEVER_LATE);
        assert!(victim().is_decided(&limiter).await);
    }

    let proxy = Proxy::start(living.address()).await;
    proxy.refuse();
    let store = store(&[dead.url(), proxy.url()]);
    let limiter = strict(&store, SOON);
    store.ping().await.expect_err("nobody is there");
    victim().until_degraded(&limiter).await;
    proxy.pass();
    victim().until_decided(&limiter).await;
    store.ping().await.unwrap();
}

#[test]
fn a_store_outlives_every_runtime_that_used_it() {
    let runtime = || Runtime::new().unwrap();
    let (last, limits) = (runtime(), Limits::from(QUOTA));
    let cluster = last.block_on(start());
    let server = last.block_on(Server::start());
    let single = RedisStore::new(&server.url()).unwrap();
    let (identity, urls) = (victim().identity, cluster.urls());
    let check = Check::new(&identity, &limits);
    for store in [single, store(&urls)] {
        for _ in 0..3 {
            let verdict = runtime().block_on(async { store.check(&check).wait().await });
            assert!(verdict.unwrap().is_allowed());
        }
    }
    // One ends before it has asked whom to ask, and nobody waits for that in vain.
    let store = store(&urls);
    let ends = Builder::new_current_thread().enable_all().build().unwrap();
    let unasked = ends.block_on(async { store.check(&check) });
    drop(ends);
    last.block_on(unasked.wait()).unwrap_err();
    last.block_on(victim().until_decided(&strict(&store, SOON)));
}
