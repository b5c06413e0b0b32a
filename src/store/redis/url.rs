//! URLs of servers, and how to show a bad one without its password.

use std::net::Ipv6Addr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::error::{RedisConfigError, shortened};

/// Reads the URL of a server. The error shows no password.
pub(super) fn read(url: &str) -> Result<ConnectionInfo, RedisConfigError> {
    let refused = |reason: &str| {
        RedisConfigError(format!(
            "`{}` is no URL of a Redis server: {reason}; write \
             redis://[user:password@]host[:port][/database]",
            without_password(url)
        ))
    };
    let info = url.into_connection_info().map_err(|error| {
        let tls = ["rediss://", "valkeys://"].map(|scheme| url.starts_with(scheme));
        match cfg!(feature = "redis-tls") || tls == [false; 2] {
            true => refused(&error.to_string()),
            false => refused("TLS needs the feature `redis-tls`"),
        }
    })?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => Err(refused(
            "`#insecure` is not supported; set `root_certificates`",
        )),
        _ => Ok(info),
    }
}

/// Enough of a bad URL to find it by, and nothing that may be a password, however bad it is: the
/// scheme, and the host, port and path if they look like such.
fn without_password(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme.rsplit('@').next().unwrap_or_default(), rest),
        None => ("", url),
    };
    let separator = if scheme.is_empty() { "" } else { "://" };
    let place = rest.rsplit('@').next().unwrap_or_default();
    // A socket's password is in the query.
    let place = place.split(['?', '#']).next().unwrap_or_default();
    let (address, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => (host, port),
        _ => (address, "0"),
    };
    // Without the `@` or the host, there is a colon too many, or the port is no number.
    let is_name = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
    let is_host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.chars().all(is_name),
    };
    let shown = match (is_host, port.parse::<u16>()) {
        (true, Ok(_)) if !path.contains(':') => place.to_owned(),
        (true, _) => format!("{host}:…"),
        (false, _) => "…".into(),
    };
    shortened(&format!("{scheme}{separator}{shown}"))
}
