//! Invalid options of `RedisStore` are refused when the store is built. The error names the value
//! and the fix, and never contains a password.

use std::time::Duration;

use tollgate::{RedisStore, RedisStoreBuilder};

const PASSWORD: &str = "open-sesame-7";
const VALID: &str = "redis://127.0.0.1:6379";

/// Returns the error of `build`. Asserts that no `Debug` or `Display` text contains the password.
fn refusal(builder: RedisStoreBuilder) -> String {
    let shown = format!("{builder:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    let error = builder.build().unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    error.to_string()
}

#[test]
fn invalid_server_urls_are_refused() {
    for (url, expected) in [
        (
            "http://x",
            "`http://x` is not a URL of a Redis server: the scheme, the host, the port or the database",
        ),
        ("127.0.0.1:6379", "127.0.0.1:6379"),
        ("", "not a URL"),
        ("redis://", "redis://"),
        ("redis://host:port", "redis://host"),
        ("redis://host:99999", "the port or the database is invalid"),
        ("redis://host/database", "redis://host/database"),
        ("redis://0.0.0.0", "redis://0.0.0.0"),
        ("redis+unix://host/socket", "redis+unix://host/socket"),
        ("redis://host?protocol=resp4", "redis://host"),
    ] {
        let refusal = refusal(RedisStore::builder(url));
        assert!(refusal.contains(expected), "`{url}`: {refusal}");
        let example = "redis://[user:password@]host[:port][/database]";
        assert!(refusal.contains(example), "`{url}`: {refusal}");
    }
}

#[test]
fn errors_never_contain_the_password() {
    for url in [
        format!("http://user:{PASSWORD}@host"),
        format!("redis://user:{PASSWORD}@host:port"),
        format!("redis://:{PASSWORD}@host/database"),
        format!("redis://user:{PASSWORD}@"),
        format!("user:{PASSWORD}@host:6379"),
        format!("redis:/user:{PASSWORD}@host"),
        // The password contains characters that must be escaped.
        format!("redis://user:{PASSWORD}/x@host"),
        format!("redis://user:{PASSWORD}#x@host"),
        format!("redis://user:{PASSWORD}?x@host"),
        format!("redis://user:x@{PASSWORD}@host:port"),
        format!("redis://user:x/{PASSWORD}@host:port"),
        format!("redis://user:{PASSWORD}%zz@host:port"),
        // The host is missing.
        format!("redis://user:{PASSWORD}"),
        format!("redis://user:{PASSWORD}/0"),
        format!("redis://user:{PASSWORD}/0/x:y"),
        // The `@` is missing.
        format!("redis://user:{PASSWORD}host:6379/0/1"),
        format!("redis://user:{PASSWORD}127.0.0.1:6379"),
        format!("user:{PASSWORD}host:6379"),
        format!("redis:/user:{PASSWORD}host:6379"),
        format!("redis/user:{PASSWORD}"),
        format!("redis://[{PASSWORD}"),
        // In the URL of a socket the password is a parameter.
        format!("redis+unix:///socket?user=app&pass={PASSWORD}&db=x"),
        format!("unix://host/socket?pass={PASSWORD}"),
    ] {
        refusal(RedisStore::builder(&url));
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let builder = || RedisStore::builder(VALID);
    for (builder, expected) in [
        (builder().connections(0), ["`connections`", "at least 1"]),
        (
            builder().connections(65),
            ["`connections`", "at most 64, not 65"],
        ),
        (
            builder().max_batch_keys(0),
            ["`max_batch_keys`", "at least 1"],
        ),
        (
            builder().max_batch_keys(1_025),
            ["`max_batch_keys`", "at most 1024, not 1025"],
        ),
        (builder().max_queue(0), ["`max_queue`", "at least 1"]),
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
        let complete = expected.iter().all(|part| refusal.contains(part));
        assert!(complete, "{expected:?}: {refusal}");
    }
}

#[cfg(feature = "redis-cluster")]
#[test]
fn cluster_without_nodes_or_with_a_database_is_refused() {
    let empty = refusal(RedisStore::cluster([]));
    assert!(empty.contains("name one or more"), "{empty}");
    let invalid = refusal(RedisStore::cluster([VALID, "http://x"]));
    assert!(invalid.contains("`http://x`"), "{invalid}");
    for other in [
        RedisStore::cluster(["redis://127.0.0.1:6379/1"]),
        RedisStore::cluster([VALID]).database(1),
    ] {
        let refusal = refusal(other);
        assert!(refusal.contains("only database 0"), "{refusal}");
    }
}

#[cfg(feature = "redis-sentinel")]
#[test]
fn invalid_sentinel_urls_are_refused() {
    let empty = refusal(RedisStore::sentinel([], "service"));
    assert!(empty.contains("name one or more"), "{empty}");
    let invalid = refusal(RedisStore::sentinel([VALID, "http://x"], "service"));
    assert!(invalid.contains("`http://x`"), "{invalid}");
}

#[test]
fn debug_output_never_contains_the_password() {
    let url = format!("redis://user:{PASSWORD}@127.0.0.1");
    for builder in [
        RedisStore::builder(&url),
        RedisStore::builder(VALID)
            .username("user")
            .password(PASSWORD),
    ] {
        let shown = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
}
