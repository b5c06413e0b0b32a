//! Parses the URLs of servers. Errors show an invalid URL without its password.

use std::net::Ipv6Addr;

use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo};

use super::config_error::RedisConfigError;
use crate::excerpt::excerpt;

pub(super) fn parse(url: &str) -> Result<ConnectionInfo, RedisConfigError> {
    let invalid = |reason: &str| {
        RedisConfigError::url(format!(
            "`{}` is not a URL of a Redis server: {reason}; write \
             redis://[user:password@]host[:port][/database]",
            redacted(url)
        ))
    };
    let info = url.into_connection_info().map_err(|error| {
        let tls = ["rediss://", "valkeys://"].map(|scheme| url.starts_with(scheme));
        match cfg!(feature = "redis-tls") || tls == [false; 2] {
            true if error.kind() == ErrorKind::InvalidClientConfig => {
                invalid("the scheme, the host, the port or the database is invalid")
            }
            true => invalid(&error.to_string()),
            false => invalid("TLS needs the feature `redis-tls`"),
        }
    })?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => Err(invalid(
            "`#insecure` is not supported; set `root_certificates`",
        )),
        _ => Ok(info),
    }
}

/// Returns the scheme, and the host, port and path if they look valid. Any other part of an invalid URL
/// may be the password.
fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme.rsplit('@').next().unwrap_or_default(), rest),
        None => ("", url),
    };
    let separator = if scheme.is_empty() { "" } else { "://" };
    let location = rest.rsplit('@').next().unwrap_or_default();
    // The URL of a Unix socket has the password in its query.
    let location = location.split(['?', '#']).next().unwrap_or_default();
    let (address, path) = location.split_at(location.find('/').unwrap_or(location.len()));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => (host, port),
        _ => (address, "0"),
    };
    // If the `@` or the host is missing, there is one colon too many, or the port is not a number.
    let is_name = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
    let is_host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.chars().all(is_name),
    };
    let shown = match (is_host, port.parse::<u16>()) {
        (true, Ok(_)) if !path.contains(':') => location.to_owned(),
        (true, _) => format!("{host}:…"),
        (false, _) => "…".into(),
    };
    excerpt(&format!("{scheme}{separator}{shown}"))
}
