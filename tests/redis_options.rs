//! A configuration that cannot be meant is refused when the store is made, by a message that names
//! the value and the way out, and never a password.

use std::time::Duration;

use tollgate::{RedisStore, RedisStoreBuilder};

const PASSWORD: &str = "open-sesame-7";
const GOOD: &str = "redis://127.0.0.1:6379";

/// Why it is refused. Nothing that can be shown has the password.
fn refusal(builder: RedisStoreBuilder) -> String {
    let shown = format!("{builder:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    let error = builder.build().unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(!told.contains(PASSWORD), "{told}");
    error.to_string()
}

#[test]
fn what_is_no_url_of_a_server_is_refused() {
    for (url, names) in [
        ("http://x", "http://x"),
        ("127.0.0.1:6379", "127.0.0.1:6379"),
        ("", "not a URL"),
        ("redis://", "redis://"),
        ("redis://host:port", "redis://host"),
        ("redis://host:99999", "redis://host"),
        ("redis://host/database", "redis://host/database"),
        ("redis://0.0.0.0", "redis://0.0.0.0"),
        ("redis+unix://host/socket", "redis+unix://host/socket"),
        ("redis://host?protocol=resp4", "redis://host"),
    ] {
        let refusal = refusal(RedisStore::builder(url));
        assert!(refusal.contains(names), "`{url}`: {refusal}");
        let example = "redis://[user:password@]host[:port][/database]";
        assert!(refusal.contains(example), "`{url}`: {refusal}");
    }
}

#[test]
fn a_password_is_told_by_no_refusal() {
    for url in [
        format!("http://user:{PASSWORD}@host"),
        format!("redis://user:{PASSWORD}@host:port"),
        format!("redis://:{PASSWORD}@host/database"),
        format!("redis://user:{PASSWORD}@"),
        format!("user:{PASSWORD}@host:6379"),
        format!("redis:/user:{PASSWORD}@host"),
        // What has a meaning in a URL is to be escaped, and this is not.
        format!("redis://user:{PASSWORD}/x@host"),
        format!("redis://user:{PASSWORD}#x@host"),
        format!("redis://user:{PASSWORD}?x@host"),
        format!("redis://user:x@{PASSWORD}@host:port"),
        format!("redis://user:x/{PASSWORD}@host:port"),
        format!("redis://user:{PASSWORD}%zz@host:port"),
        // The host was forgotten.
        format!("redis://user:{PASSWORD}"),
        format!("redis://user:{PASSWORD}/0"),
        format!("redis://user:{PASSWORD}/0/x:y"),
        // The `@` was forgotten.
        format!("redis://user:{PASSWORD}host:6379/0/1"),
        format!("redis://user:{PASSWORD}127.0.0.1:6379"),
        format!("user:{PASSWORD}host:6379"),
        format!("redis:/user:{PASSWORD}host:6379"),
        format!("redis/user:{PASSWORD}"),
        format!("redis://[{PASSWORD}"),
        // A socket's password is not where others are.
        format!("redis+unix:///socket?user=app&pass={PASSWORD}&db=x"),
        format!("unix://host/socket?pass={PASSWORD}"),
    ] {
        refusal(RedisStore::builder(&url));
    }
}

#[test]
fn options_out_of_their_range_are_refused() {
    let builder = || RedisStore::builder(GOOD);
    for (builder, names) in [
        (builder().connections(0), ["`connections`", "at least 1"]),
        (
            builder().connections(65),
            ["`connections`", "at most 64, not 65"],
        ),
        (builder().most_keys(0), ["`most_keys`", "at least 1"]),
        (
            builder().most_keys(1_025),
            ["`most_keys`", "at most 1024, not 1025"],
        ),
        (
            builder().longest_queue(0),
            ["`longest_queue`", "at least 1"],
        ),
        (
            builder().max_connection_age(Duration::from_millis(999)),
            ["`max_connection_age`", "at least 1s, not 999ms"],
        ),
        (builder().prefix(""), ["``", "prefix"]),
        (builder().prefix("a{b}"), ["`a{b}`", "prefix"]),
        (builder().prefix("a:b"), ["`a:b`", "prefix"]),
        (builder().prefix("a*"), ["`a*`", "prefix"]),
        (builder().prefix("a b"), ["`a b`", "prefix"]),
        (builder().prefix("ü"), ["`ü`", "prefix"]),
    ] {
        let refusal = refusal(builder);
        let named = names.iter().all(|name| refusal.contains(name));
        assert!(named, "{names:?}: {refusal}");
    }
}

#[cfg(feature = "redis-cluster")]
#[test]
fn a_cluster_of_no_nodes_or_of_another_database_is_refused() {
    let nobody = refusal(RedisStore::cluster([]));
    assert!(nobody.contains("name one or more"), "{nobody}");
    let one_is_none = refusal(RedisStore::cluster([GOOD, "http://x"]));
    assert!(one_is_none.contains("`http://x`"), "{one_is_none}");
    for other in [
        RedisStore::cluster(["redis://127.0.0.1:6379/1"]),
        RedisStore::cluster([GOOD]).database(1),
    ] {
        let refusal = refusal(other);
        assert!(refusal.contains("only database 0"), "{refusal}");
    }
}

#[cfg(feature = "redis-sentinel")]
#[test]
fn sentinels_that_are_none_are_refused() {
    let nobody = refusal(RedisStore::sentinel([], "service"));
    assert!(nobody.contains("name one or more"), "{nobody}");
    let one_is_none = refusal(RedisStore::sentinel([GOOD, "http://x"], "service"));
    assert!(one_is_none.contains("`http://x`"), "{one_is_none}");
}

#[test]
fn nothing_that_is_shown_has_the_password() {
    let url = format!("redis://user:{PASSWORD}@127.0.0.1");
    for builder in [
        RedisStore::builder(&url),
        RedisStore::builder(GOOD)
            .username("user")
            .password(PASSWORD),
    ] {
        let shown = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
}
