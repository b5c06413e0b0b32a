//! A server that does not let the store in, or not do what it must: requests are served without
//! it, a ping says what is wrong, no password is ever told, and once it is put right all is well.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;
mod support;

use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use outage::{LONG, alice, counted, limiter, until_alone, until_shared};
use servers::{Server, Wait};
use support::{header, request, send, text};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tollgate::{
    Check, Identity, Limiter, Limits, Quota, RateLimitLayer, RedisCredentials, RedisStore, Store,
    StoreError, StoreErrorKind,
};

const PASSWORD: &str = "open-sesame-7";

/// All that an error says, in every way, which must not be the password.
fn story(error: &StoreError) -> String {
    let mut story = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        story += &format!(": {error} {error:?}");
        source = error.source();
    }
    assert!(!story.contains(PASSWORD), "{story}");
    story
}

/// What a store that is not let in does.
async fn is_kept_out(store: &RedisStore, says: &[&str]) -> Limiter {
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rejected, "{error:?}");
    let story = story(&error);
    assert!(says.iter().any(|says| story.contains(says)), "{story}");

    let limiter = Limiter::builder(store.clone()).deadline(LONG).build();
    let layer = RateLimitLayer::new(Quota::per_day(100), limiter.clone());
    for _ in 0..2 {
        let response = send(&layer, request("alice")).await;
        assert_eq!(response.status(), StatusCode::OK, "{says:?}");
        assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
        let told = format!("{:?}", response.headers());
        assert!(!told.contains(PASSWORD), "{told}");
        assert_eq!(text(response).await, "hello");
        until_alone(&limiter).await;
    }
    for shown in [format!("{store:?}"), format!("{limiter:?} {layer:?}")] {
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
    limiter
}

/// What it does once it is let in.
async fn is_let_in(server: &Server, store: &RedisStore, limiter: &Limiter) {
    until_shared(limiter).await;
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(100));
    let decision = outage::check(limiter, &limits).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 97);
    assert_eq!(counted(server, &limits).await, [3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
    server.command(&["FLUSHALL"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_once_it_is_right_all_is_well() {
    let server = Server::start().await;
    let named = RedisStore::builder(&server.url()).username("app");
    let store = named.password(PASSWORD).build().unwrap();
    let in_url = format!("redis://app:{PASSWORD}@{}", server.address());
    let in_url = RedisStore::new(&in_url).unwrap();
    for store in [store, in_url] {
        let user = ["ACL", "SETUSER", "app", "reset", "on", "~*", "+@all"];
        server.command(&[&user[..], &[">another"]].concat()).await;
        let limiter = is_kept_out(&store, &["WRONGPASS"]).await;
        server
            .command(&["ACL", "SETUSER", "app", &format!(">{PASSWORD}")])
            .await;
        is_let_in(&server, &store, &limiter).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_password_is_told_and_once_none_is_needed_all_is_well() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let admin = ["ACL", "SETUSER", "admin", "on", ">admin", "~*", "+@all"];
    server.command(&admin).await;
    server
        .command(&["CONFIG", "SET", "requirepass", PASSWORD])
        .await;
    let limiter = is_kept_out(&store, &["NOAUTH"]).await;
    let admin = format!("redis://admin:admin@{}", server.address());
    let admin = redis::Client::open(admin).unwrap();
    let mut admin = admin.get_multiplexed_async_connection().await.unwrap();
    let mut open = redis::cmd("CONFIG");
    open.arg("SET").arg("requirepass").arg("");
    let () = open.query_async(&mut admin).await.unwrap();
    is_let_in(&server, &store, &limiter).await;
}

/// Rights without which the script takes longer.
const FASTER: [&str; 5] = ["+mget", "+exists", "+incrby", "+pexpireat", "+pttl"];

/// Rights without which nothing works.
fn needed_rights() -> Vec<&'static str> {
    let mut rights = servers::rights::rights(&["counts"]);
    rights.retain(|right| !FASTER.contains(right));
    rights
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_told_and_once_it_is_there_all_is_well() {
    let server = Server::start().await;
    let url = format!("redis://app:{PASSWORD}@{}", server.address());
    let store = RedisStore::new(&url).unwrap();
    let password = format!(">{PASSWORD}");
    let user = ["ACL", "SETUSER", "app", "reset", "on", &password];
    let rights = needed_rights();
    for missing in ["+eval", "+get", "+set", "+time", "~tollgate:*"] {
        let keys = ["~tollgate:*"];
        let has = rights.iter().chain(&keys).copied();
        let has: Vec<_> = has.filter(|right| *right != missing).collect();
        server.command(&[&user[..], &has[..]].concat()).await;
        // Within a script some servers do not say which command it is.
        let says = ["no permission", "No permission", "can't run this command"];
        let limiter = is_kept_out(&store, &says).await;
        server.command(&["ACL", "SETUSER", "app", missing]).await;
        is_let_in(&server, &store, &limiter).await;
    }
}

#[tokio::test]
async fn a_user_with_the_least_rights_can_do_all() {
    let server = Server::start().await;
    let password = format!(">{PASSWORD}");
    let user = [
        "ACL",
        "SETUSER",
        "app",
        "reset",
        "on",
        &password,
        "~tollgate:*",
    ];
    let rights = needed_rights();
    let url = format!("redis://app:{PASSWORD}@{}", server.address());
    let store = RedisStore::new(&url).unwrap();
    let alice = alice();
    let limits = || [Limits::from(Quota::per_day(10)), outage::together(10)];
    let faster = (0..=FASTER.len()).map(|rights| &FASTER[..rights]);
    let faster = faster.map(|faster| limits().map(|one| (faster, one)));
    for (faster, limits) in faster.flatten() {
        server
            .command(&[&user[..], &rights[..], faster].concat())
            .await;
        let check = Check::new(&alice, &limits);
        let ask = async |cost| store.check(&check.cost(cost)).wait().await.unwrap();
        store.ping().await.unwrap();
        assert!(ask(4).await.is_allowed());
        assert!(ask(6).await.is_allowed());
        assert!(!ask(8).await.is_allowed());
        store.reset(&check).wait().await.unwrap();
        assert!(ask(10).await.is_allowed());
        server.command(&["SCRIPT", "FLUSH"]).await;
        assert!(ask(0).await.is_allowed());
        store.reset(&check).wait().await.unwrap();
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// A user whose only password is this one.
async fn set_password(server: &Server, password: &str) {
    let password = format!(">{password}");
    let user = [
        "ACL", "SETUSER", "app", "reset", "on", &password, "~*", "+@all",
    ];
    server.command(&user).await;
}

/// Asks about many users until it is told to stop, and returns how many checks were degraded.
fn load(limiter: &Limiter) -> (oneshot::Sender<()>, JoinHandle<usize>) {
    let (stop, mut stopped) = oneshot::channel();
    let limiter = limiter.clone();
    let task = tokio::spawn(async move {
        let limits = Limits::from(Quota::per_day(1_000_000));
        let mut degraded = 0;
        for number in 0.. {
            if stopped.try_recv().is_ok() {
                break;
            }
            let identity = Identity::user(&(number % 50).to_string());
            let decision = limiter.check(&Check::new(&identity, &limits)).await;
            degraded += usize::from(decision.is_degraded());
            sleep(Duration::from_millis(1)).await;
        }
        degraded
    });
    (stop, task)
}

/// How many connections the user `app` has.
async fn connections(server: &Server) -> Vec<String> {
    let clients: String = server.ask(&["CLIENT", "LIST"]).await;
    let of_app = clients.lines().filter(|line| line.contains(" user=app "));
    of_app.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn password_that_changes_under_load_is_asked_for_anew() {
    let server = Server::start().await;
    let passwords = Arc::new(Mutex::new("first".to_owned()));
    let current = passwords.clone();
    set_password(&server, "first").await;
    let store = RedisStore::builder(&server.url())
        .credentials(move || {
            let password = current.lock().unwrap().clone();
            async move { Ok::<_, Infallible>(RedisCredentials::new("app", password)) }
        })
        .build()
        .unwrap();
    let limiter = Limiter::builder(store.clone()).deadline(LONG).build();
    until_shared(&limiter).await;
    let (stop, load) = load(&limiter);
    for password in ["second", "third"] {
        *passwords.lock().unwrap() = password.to_owned();
        set_password(&server, password).await;
        // The server closes the connections that the old password has opened.
        let [old] = &connections(&server).await[..] else {
            panic!("the store has one connection");
        };
        let id = old.split(' ').next().unwrap().strip_prefix("id=").unwrap();
        server.command(&["CLIENT", "KILL", "ID", id]).await;
        let wait = Wait::until("the store has connected again");
        while connections(&server)
            .await
            .first()
            .is_none_or(|new| new == old)
        {
            wait.on().await;
        }
    }
    let _ = stop.send(());
    let degraded = load.await.unwrap();
    // A check that is in flight when its connection is closed is not sent again.
    assert!(degraded <= 2, "{degraded} degraded by two reconnects");
    store.ping().await.unwrap();
}

/// A token is good for four seconds: the server closes connections that are older.
#[tokio::test(flavor = "multi_thread")]
async fn connection_is_replaced_before_its_token_expires() {
    let server = Server::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let store = RedisStore::builder(&server.url())
        .credentials(move || {
            let token = format!("token-{}", counter.fetch_add(1, Ordering::SeqCst));
            async move { Ok::<_, Infallible>(RedisCredentials::new("app", token)) }
        })
        .max_connection_age(Duration::from_secs(1))
        .build()
        .unwrap();
    for token in 0..100 {
        let password = format!(">token-{token}");
        let user = ["ACL", "SETUSER", "app", "on", &password, "~*", "+@all"];
        server.command(&user).await;
    }
    let limiter = Limiter::builder(store).deadline(LONG).build();
    until_shared(&limiter).await;
    let (stop, load) = load(&limiter);
    let wait = Wait::until("ten tokens were used");
    let mut expired = 0;
    while asked.load(Ordering::SeqCst) < 10 {
        wait.on().await;
        for connection in connections(&server).await {
            let value = |name| {
                connection
                    .split(' ')
                    .find_map(|part| part.strip_prefix(name))
            };
            if value("age=").unwrap().parse::<u64>().unwrap() >= 4 {
                expired += 1;
                server
                    .command(&["CLIENT", "KILL", "ID", value("id=").unwrap()])
                    .await;
            }
        }
    }
    let _ = stop.send(());
    assert_eq!((load.await.unwrap(), expired), (0, 0), "degraded, expired");
    assert!(
        connections(&server).await.len() <= 2,
        "old connections are closed"
    );
}

#[tokio::test]
async fn failing_credentials_provider_is_the_cause_of_the_outage() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url())
        .credentials(|| async { Err::<RedisCredentials, _>("vault is sealed") })
        .build()
        .unwrap();
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let story = story(&error);
    assert!(story.contains("vault is sealed") && story.contains(&server.address().to_string()));
    let shown = format!("{:?}", RedisCredentials::new("app", PASSWORD));
    assert!(
        shown.contains("app") && !shown.contains(PASSWORD),
        "{shown}"
    );
}

/// The user is changed under an open connection.
#[tokio::test(flavor = "multi_thread")]
async fn rights_taken_and_given_back_while_connected_are_an_outage_and_its_end() {
    let server = Server::start().await;
    let password = format!(">{PASSWORD}");
    let user = [
        "ACL", "SETUSER", "app", "reset", "on", &password, "~*", "+@all",
    ];
    server.command(&user).await;
    let url = format!("redis://app:{PASSWORD}@{}", server.address());
    let limiter = limiter(&url, LONG);
    let limits = Limits::from(Quota::per_day(100));
    let mut admitted = 0;
    for (take, give) in [
        (
            &["ACL", "SETUSER", "app", "-evalsha"][..],
            &["ACL", "SETUSER", "app", "+@all"][..],
        ),
        (&["ACL", "DELUSER", "app"], &user),
    ] {
        until_shared(&limiter).await;
        server.command(take).await;
        until_alone(&limiter).await;
        assert!(outage::check(&limiter, &limits).await.is_degraded());
        server.command(give).await;
        until_shared(&limiter).await;
        assert!(!outage::check(&limiter, &limits).await.is_degraded());
        admitted += 2;
        assert_eq!(counted(&server, &limits).await, [admitted]);
    }
}
