//! With wrong credentials or missing rights, requests are served by the fallback, `ping` fails with
//! the cause, no password is ever shown, and the store is used as soon as the credentials are
//! right.

#[path = "support/load.rs"]
mod load;
#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;
mod support;

use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use load::Load;
use redis_limiter::{
    LONG_DEADLINE, alice, counted, limiter, wait_until_breaker_opens, wait_until_store_decides,
};
use servers::{Server, Wait};
use support::{header, request, send};
use tokio::time::sleep;
use tollgate::{
    Check, Identity, Limiter, Limits, Quota, RateLimitLayer, RedisCredentials, RedisStore, Store,
    StoreError, StoreErrorKind,
};

const PASSWORD: &str = "open-sesame-7";

/// Returns all texts of an error and of its causes. Asserts that they do not contain the password.
fn full_text(error: &StoreError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error} {error:?}");
        source = error.source();
    }
    assert!(!text.contains(PASSWORD), "{text}");
    text
}

/// Asserts that a store whose commands are refused is bypassed, and that `ping` fails with one of
/// these causes. Returns the limiter, whose breaker is open.
async fn assert_bypassed(store: &RedisStore, causes: &[&str]) -> Limiter {
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rejected, "{error:?}");
    let text = full_text(&error);
    assert!(causes.iter().any(|cause| text.contains(cause)), "{text}");

    let limiter = Limiter::builder(store.clone())
        .deadline(LONG_DEADLINE)
        .build();
    let layer = RateLimitLayer::new(Quota::per_day(100), limiter.clone());
    for _ in 0..2 {
        let response = send(&layer, request("alice")).await;
        assert_eq!(response.status(), StatusCode::OK, "{causes:?}");
        assert_eq!(header(&response, "x-ratelimit-degraded"), Some("true"));
        let headers = format!("{:?}", response.headers());
        assert!(!headers.contains(PASSWORD), "{headers}");
        assert_eq!(support::text(response).await, "hello");
        wait_until_breaker_opens(&limiter).await;
    }
    for shown in [format!("{store:?}"), format!("{limiter:?} {layer:?}")] {
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
    limiter
}

/// Asserts that the store is used again and has counted what the fallback allowed.
async fn assert_used_again(server: &Server, store: &RedisStore, limiter: &Limiter) {
    wait_until_store_decides(limiter).await;
    store.ping().await.unwrap();
    let limits = Limits::from(Quota::per_day(100));
    let decision = redis_limiter::check(limiter, &limits).await;
    assert!(!decision.is_degraded());
    assert_eq!(decision.remaining(), 97);
    assert_eq!(counted(server, &limits).await, [3]);
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
    server.command(&["FLUSHALL"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_is_reported_and_recovered_from() {
    let server = Server::start().await;
    let builder = RedisStore::builder(&server.url()).username("app");
    let by_builder = builder.password(PASSWORD).build().unwrap();
    let url = format!("redis://app:{PASSWORD}@{}", server.address());
    let by_url = RedisStore::new(&url).unwrap();
    for store in [by_builder, by_url] {
        let user = ["ACL", "SETUSER", "app", "reset", "on", "~*", "+@all"];
        server.command(&[&user[..], &[">another"]].concat()).await;
        let limiter = assert_bypassed(&store, &["WRONGPASS"]).await;
        server
            .command(&["ACL", "SETUSER", "app", &format!(">{PASSWORD}")])
            .await;
        assert_used_again(&server, &store, &limiter).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_password_is_reported_and_recovered_from() {
    let server = Server::start().await;
    let store = RedisStore::new(&server.url()).unwrap();
    let admin = ["ACL", "SETUSER", "admin", "on", ">admin", "~*", "+@all"];
    server.command(&admin).await;
    server
        .command(&["CONFIG", "SET", "requirepass", PASSWORD])
        .await;
    let limiter = assert_bypassed(&store, &["NOAUTH"]).await;
    let admin = format!("redis://admin:admin@{}", server.address());
    let admin = redis::Client::open(admin).unwrap();
    let mut admin = admin.get_multiplexed_async_connection().await.unwrap();
    let mut unset = redis::cmd("CONFIG");
    unset.arg("SET").arg("requirepass").arg("");
    let () = unset.query_async(&mut admin).await.unwrap();
    assert_used_again(&server, &store, &limiter).await;
}

/// Rights that the script uses to be faster, and can do without.
const OPTIONAL_RIGHTS: [&str; 5] = ["+mget", "+exists", "+incrby", "+pexpireat", "+pttl"];

/// Returns the rights that the script needs.
fn required_rights() -> Vec<&'static str> {
    let mut rights = servers::rights::rights(&["counts"]);
    rights.retain(|right| !OPTIONAL_RIGHTS.contains(right));
    rights
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_right_is_reported_and_recovered_from() {
    let server = Server::start().await;
    let url = format!("redis://app:{PASSWORD}@{}", server.address());
    let store = RedisStore::new(&url).unwrap();
    let password = format!(">{PASSWORD}");
    let user = ["ACL", "SETUSER", "app", "reset", "on", &password];
    let rights = required_rights();
    for missing in ["+eval", "+get", "+set", "+time", "~tollgate:*"] {
        let keys = ["~tollgate:*"];
        let granted = rights.iter().chain(&keys).copied();
        let granted: Vec<_> = granted.filter(|right| *right != missing).collect();
        server.command(&[&user[..], &granted[..]].concat()).await;
        // The texts of several versions, not all of which name the command.
        let causes = ["no permission", "No permission", "can't run this command"];
        let limiter = assert_bypassed(&store, &causes).await;
        server.command(&["ACL", "SETUSER", "app", missing]).await;
        assert_used_again(&server, &store, &limiter).await;
    }
}

#[tokio::test]
async fn required_rights_are_enough_for_all_operations() {
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
    let rights = required_rights();
    let url = format!("redis://app:{PASSWORD}@{}", server.address());
    let store = RedisStore::new(&url).unwrap();
    let alice = alice();
    let limits = || {
        [
            Limits::from(Quota::per_day(10)),
            redis_limiter::combined_limits(10),
        ]
    };
    let optional = (0..=OPTIONAL_RIGHTS.len()).map(|count| &OPTIONAL_RIGHTS[..count]);
    let cases = optional.map(|optional| limits().map(|limits| (optional, limits)));
    for (optional, limits) in cases.flatten() {
        server
            .command(&[&user[..], &rights[..], optional].concat())
            .await;
        let check = Check::new(&alice, &limits);
        let charge = async |cost| store.check(&check.cost(cost)).wait().await.unwrap();
        store.ping().await.unwrap();
        assert!(charge(4).await.is_allowed());
        assert!(charge(6).await.is_allowed());
        assert!(!charge(8).await.is_allowed());
        store.reset(&check).wait().await.unwrap();
        assert!(charge(10).await.is_allowed());
        server.command(&["SCRIPT", "FLUSH"]).await;
        assert!(charge(0).await.is_allowed());
        store.reset(&check).wait().await.unwrap();
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);
}

/// Creates the user `app` with all rights, or changes its password.
async fn set_password(server: &Server, password: &str) {
    let password = format!(">{password}");
    let user = [
        "ACL", "SETUSER", "app", "reset", "on", &password, "~*", "+@all",
    ];
    server.command(&user).await;
}

/// Makes checks of many users. Each task returns how many of its checks were degraded.
fn make_checks(limiter: &Limiter) -> Load<usize> {
    let mut load = Load::new();
    let limiter = limiter.clone();
    load.spawn(|running| async move {
        let limits = Limits::from(Quota::per_day(1_000_000));
        let (mut number, mut degraded) = (0, 0);
        while running.get() {
            let identity = Identity::user(&(number % 50).to_string());
            let decision = limiter.check(&Check::new(&identity, &limits)).await;
            degraded += usize::from(decision.is_degraded());
            number += 1;
            sleep(Duration::from_millis(1)).await;
        }
        degraded
    });
    load
}

/// Returns the connections of the user `app`, as lines of CLIENT LIST.
async fn connections(server: &Server) -> Vec<String> {
    let clients: String = server.query(&["CLIENT", "LIST"]).await;
    let of_app = clients.lines().filter(|line| line.contains(" user=app "));
    of_app.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_password_is_requested_again_on_reconnect() {
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
    let limiter = Limiter::builder(store.clone())
        .deadline(LONG_DEADLINE)
        .build();
    wait_until_store_decides(&limiter).await;
    let load = make_checks(&limiter);
    for password in ["second", "third"] {
        *passwords.lock().unwrap() = password.to_owned();
        set_password(&server, password).await;
        // Close the connection that was opened with the old password.
        let [old] = &connections(&server).await[..] else {
            panic!("not one connection");
        };
        let id = old.split(' ').next().unwrap().strip_prefix("id=").unwrap();
        server.command(&["CLIENT", "KILL", "ID", id]).await;
        let wait = Wait::until("the store has connected again");
        while connections(&server)
            .await
            .first()
            .is_none_or(|new| new == old)
        {
            wait.sleep().await;
        }
    }
    let degraded: usize = load.stop().await.into_iter().sum();
    // A check that is in flight when its connection is closed is not retried.
    assert!(degraded <= 2, "{degraded} degraded by two reconnects");
    store.ping().await.unwrap();
}

/// A token is valid for four seconds: the test closes older connections, as a server would.
#[tokio::test(flavor = "multi_thread")]
async fn connection_is_replaced_before_its_token_expires() {
    let server = Server::start().await;
    let tokens = Arc::new(AtomicUsize::new(0));
    let counter = tokens.clone();
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
    let limiter = Limiter::builder(store).deadline(LONG_DEADLINE).build();
    wait_until_store_decides(&limiter).await;
    let load = make_checks(&limiter);
    let wait = Wait::until("ten tokens were used");
    let mut expired = 0;
    while tokens.load(Ordering::SeqCst) < 10 {
        wait.sleep().await;
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
    assert_eq!(
        (load.stop().await, expired),
        (vec![0], 0),
        "degraded, expired"
    );
    assert!(
        connections(&server).await.len() <= 2,
        "old connections are closed"
    );
}

#[tokio::test]
async fn failing_credentials_provider_is_named_as_the_cause() {
    let server = Server::start().await;
    let store = RedisStore::builder(&server.url())
        .credentials(|| async { Err::<RedisCredentials, _>("vault is sealed") })
        .build()
        .unwrap();
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let text = full_text(&error);
    assert!(text.contains("vault is sealed") && text.contains(&server.address().to_string()));
    let shown = format!("{:?}", RedisCredentials::new("app", PASSWORD));
    assert!(
        shown.contains("app") && !shown.contains(PASSWORD),
        "{shown}"
    );
}

/// The rights of the user change while a connection is open.
#[tokio::test(flavor = "multi_thread")]
async fn revoked_rights_are_an_outage_until_granted() {
    let server = Server::start().await;
    let password = format!(">{PASSWORD}");
    let user = [
        "ACL", "SETUSER", "app", "reset", "on", &password, "~*", "+@all",
    ];
    server.command(&user).await;
    let url = format!("redis://app:{PASSWORD}@{}", server.address());
    let limiter = limiter(&url, LONG_DEADLINE);
    let limits = Limits::from(Quota::per_day(100));
    let mut admitted = 0;
    for (revoke, grant) in [
        (
            &["ACL", "SETUSER", "app", "-evalsha"][..],
            &["ACL", "SETUSER", "app", "+@all"][..],
        ),
        (&["ACL", "DELUSER", "app"], &user),
    ] {
        wait_until_store_decides(&limiter).await;
        server.command(revoke).await;
        wait_until_breaker_opens(&limiter).await;
        assert!(redis_limiter::check(&limiter, &limits).await.is_degraded());
        server.command(grant).await;
        wait_until_store_decides(&limiter).await;
        assert!(!redis_limiter::check(&limiter, &limits).await.is_degraded());
        admitted += 2;
        assert_eq!(counted(&server, &limits).await, [admitted]);
    }
}
