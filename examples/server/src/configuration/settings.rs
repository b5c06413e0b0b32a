//! Reads `[listen]`, `[store]`, `[log]` and `[shutdown]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use redis::IntoConnectionInfo;
use tollgate::{FailureStrategy, RedisStore};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::field::{Field, Secret, Table};
use super::tree::Result;

/// The addresses to listen on, and the limits of connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Listen {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    /// `None` without `[admin]`.
    pub(crate) admin: Option<SocketAddr>,
    /// The maximum number of connections of all listeners together. The default depends on the
    /// limit of file descriptors.
    pub(crate) max_connections: Option<u32>,
    /// The default is half of `max_connections`.
    pub(crate) max_connections_per_address: Option<u32>,
    /// The timeout of a request from its head to its response.
    pub(crate) request_deadline: Duration,
    /// The age after which HTTP/2 clients, including gRPC, are asked to reconnect.
    pub(crate) max_connection_age: Duration,
}

impl Listen {
    /// Returns whether all listeners are on loopback addresses.
    pub(super) fn is_local(&self) -> bool {
        let addresses = [Some(self.http), Some(self.grpc), self.admin];
        addresses
            .iter()
            .flatten()
            .all(|address| address.ip().is_loopback())
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct StoreSettings {
    pub(crate) kind: StoreKind,
    /// The timeout of a check.
    pub(crate) deadline: Duration,
}

#[derive(Debug, PartialEq)]
pub(crate) enum StoreKind {
    /// Counts in this process.
    Local { capacity: usize },
    /// Counts in Redis, shared by all servers with the same URL and prefix.
    Redis {
        url: Secret,
        prefix: String,
        connections: usize,
        fallback_capacity: usize,
        replicas: NonZeroU32,
    },
}

/// Writes the kind and the address, without the password.
impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { .. } => f.write_str("local"),
            Self::Redis { url, .. } => match url.reveal().into_connection_info() {
                Ok(server) => write!(f, "redis at {}", server.addr()),
                Err(_) => f.write_str("redis"),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shutdown {
    /// The time to accept connections after the signal to stop, so that clients can switch to
    /// another server.
    pub(crate) delay: Duration,
    /// The timeout, after the delay, of requests in flight.
    pub(crate) deadline: Duration,
}

const STRATEGIES: [(&str, FailureStrategy); 3] = [
    ("open", FailureStrategy::Open),
    ("open-unlimited", FailureStrategy::OpenUnlimited),
    ("closed", FailureStrategy::Closed),
];

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn section<'a>(root: &Table<'a>, name: &str, known: &[&str]) -> Result<Option<Table<'a>>> {
    root.read(name, |field| field.table(known))
}

pub(super) fn listen(root: &Table<'_>, has_admin: bool) -> Result<Listen> {
    const DAY: Duration = Duration::from_secs(86_400);
    let known = [
        "http",
        "grpc",
        "admin",
        "max_connections",
        "max_connections_per_address",
        "request_deadline",
        "max_connection_age",
    ];
    let table = section(root, "listen", &known)?;
    let table = table.as_ref();
    let address = |name: &str, port| {
        let address = table.map(|table| table.read(name, Field::address));
        Ok(address.transpose()?.flatten().unwrap_or(local(port)))
    };
    let duration = |name: &str, default| {
        let duration = table.map(|table| table.read(name, |field| field.duration_up_to(DAY)));
        Ok(duration.transpose()?.flatten().unwrap_or(default))
    };
    let count = |name: &str| {
        let count = table.map(|table| table.read(name, |field| field.number(1..=1_000_000)));
        Ok(count.transpose()?.flatten())
    };
    let listen = Listen {
        http: address("http", 8080)?,
        grpc: address("grpc", 8081)?,
        admin: Some(address("admin", 8082)?).filter(|_| has_admin),
        max_connections: count("max_connections")?,
        max_connections_per_address: count("max_connections_per_address")?,
        request_deadline: duration("request_deadline", Duration::from_secs(10))?,
        max_connection_age: duration("max_connection_age", Duration::from_secs(300))?,
    };
    if let Some(table) = table {
        check_overlap(table, &listen)?;
    }
    Ok(listen)
}

/// Returns an error for listeners with overlapping addresses. The operating system does not detect
/// all of them.
fn check_overlap(table: &Table<'_>, listen: &Listen) -> Result<()> {
    let mut listeners = vec![("http", listen.http), ("grpc", listen.grpc)];
    listeners.extend(listen.admin.map(|address| ("admin", address)));
    for (index, (name, address)) in listeners.iter().enumerate() {
        for (other, taken) in &listeners[..index] {
            if overlap(*address, *taken) {
                let problem =
                    format!("{address} overlaps {other}, {taken}: change one of the ports");
                // The defaults do not overlap, so one of the fields is present.
                let field = table.required(name).or_else(|_| table.required(other))?;
                return Err(field.error(problem));
            }
        }
    }
    Ok(())
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 means any free port.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    // A listener on [::] also accepts IPv4 connections.
    let accepts_all = |ip: IpAddr| ip == Ipv6Addr::UNSPECIFIED;
    let same_family = one.is_ipv4() == other.is_ipv4();
    one == other
        || accepts_all(one)
        || accepts_all(other)
        || same_family && (one.is_unspecified() || other.is_unspecified())
}

pub(super) fn store(root: &Table<'_>) -> Result<(StoreSettings, FailureStrategy)> {
    const COMMON: [&str; 3] = ["kind", "deadline", "failure"];
    const LOCAL: [&str; 1] = ["capacity"];
    const REDIS: [&str; 5] = [
        "url",
        "prefix",
        "connections",
        "fallback_capacity",
        "replicas",
    ];
    let default = StoreSettings {
        kind: StoreKind::Local {
            capacity: 1_000_000,
        },
        deadline: Duration::from_millis(50),
    };
    let known = [&COMMON[..], &LOCAL, &REDIS].concat();
    let Some(table) = section(root, "store", &known)? else {
        return Ok((default, FailureStrategy::default()));
    };
    let is_redis = table.read("kind", |field| {
        field.choice(&[("local", false), ("redis", true)])
    })?;
    // A URL implies Redis.
    let is_redis = is_redis.unwrap_or(table.get("url").is_some());
    let foreign = if is_redis { &LOCAL[..] } else { &REDIS };
    if let Some(field) = foreign.iter().find_map(|name| table.get(name)) {
        let (this, other) = if is_redis {
            ("redis", "local")
        } else {
            ("local", "redis")
        };
        let fix = match (is_redis, table.get("fallback_capacity")) {
            (true, None) => "use `fallback_capacity`".to_owned(),
            (true, Some(_)) => "remove the field".to_owned(),
            (false, _) => format!("remove the field, or write `kind = \"{other}\"`"),
        };
        return Err(field.error(format!(
            "the store is {this}, and only {other} has this field: {fix}"
        )));
    }
    let count = |name: &str, most: u32, default: u32| {
        let count = table.read(name, |field| field.number(1..=most))?;
        Ok(count.unwrap_or(default))
    };
    let kind = match is_redis {
        false => StoreKind::Local {
            capacity: count("capacity", u32::MAX, 1_000_000)? as usize,
        },
        true => redis(&table, count)?,
    };
    let deadline = table.read("deadline", Field::duration)?;
    let strategy = table.read("failure", |field| field.choice(&STRATEGIES))?;
    let store = StoreSettings {
        kind,
        deadline: deadline.unwrap_or(default.deadline),
    };
    Ok((store, strategy.unwrap_or_default()))
}

fn redis(table: &Table<'_>, count: impl Fn(&str, u32, u32) -> Result<u32>) -> Result<StoreKind> {
    let url = table.required("url")?;
    if !url.text()?.contains("://") {
        // The text may be a password in the wrong field, so the error must not show it.
        return Err(url.error("is not a URL: write redis://[user:password@]host[:port][/database]"));
    }
    // The library checks the URL and the prefix. Its errors show no password.
    let store = RedisStore::builder(url.text()?).build();
    store.map_err(|error| url.error(error))?;
    let prefix = table.read("prefix", |field| {
        let prefix = field.text()?;
        let store = RedisStore::builder("redis://127.0.0.1").prefix(prefix);
        store.build().map_err(|_| {
            field.error(format!(
                "{prefix:?} cannot be a prefix: use 1 to 64 ASCII letters, digits, `.`, `_` and `-`"
            ))
        })?;
        Ok(prefix)
    })?;
    let prefix = prefix.unwrap_or("tollgate");
    let connections = count("connections", 64, 1)? as usize;
    Ok(StoreKind::Redis {
        url: url.secret()?,
        prefix: prefix.to_owned(),
        connections,
        fallback_capacity: count("fallback_capacity", u32::MAX, 100_000)? as usize,
        replicas: NonZeroU32::new(count("replicas", 10_000, 1)?).unwrap_or(NonZeroU32::MIN),
    })
}

pub(super) fn log(root: &Table<'_>) -> Result<(Targets, LogFormat)> {
    let default = || Targets::new().with_default(LevelFilter::INFO);
    let Some(table) = section(root, "log", &["filter", "format"])? else {
        return Ok((default(), LogFormat::Text));
    };
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let filter = table.read("filter", log_filter)?;
    let format = table.read("format", |field| field.choice(&formats))?;
    Ok((
        filter.unwrap_or_else(default),
        format.unwrap_or(LogFormat::Text),
    ))
}

/// Reads log levels, such as `warn,tollgate=debug`. A misspelt level is an error. `tracing` would
/// take it for the name of a target, and the server would log nothing.
fn log_filter(field: &Field<'_>) -> Result<Targets> {
    let text = field.text()?;
    let mut filter = Targets::new();
    let mut has_server_level = false;
    for directive in text.split(',') {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, directive.trim()),
        };
        let is_path = |target: &str| {
            let mut characters = target.chars();
            characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
        };
        // An empty level would parse as `error`.
        let is_complete = !level.is_empty() && target.is_none_or(is_path);
        let Some(level) = level.parse::<LevelFilter>().ok().filter(|_| is_complete) else {
            return Err(field.error(format!(
                "{directive:?} is neither a level (off, error, warn, info, debug or trace) nor a \
                 target and its level, such as tollgate=debug"
            )));
        };
        filter = match target {
            Some(target) => filter.with_target(target, level),
            None => filter.with_default(level),
        };
        let crate_name = target.and_then(|target| target.split("::").next());
        has_server_level |= matches!(crate_name, None | Some("tollgate" | "tollgate_server"));
    }
    if !has_server_level {
        return Err(field.error(format!(
            "{text:?} has no level for the server itself: write info,{text}"
        )));
    }
    Ok(filter)
}

pub(super) fn shutdown(root: &Table<'_>) -> Result<Shutdown> {
    let table = section(root, "shutdown", &["delay", "deadline"])?;
    let duration = |name: &str, default| {
        let duration = table
            .as_ref()
            .map(|table| table.read(name, Field::duration_or_zero));
        Ok(duration.transpose()?.flatten().unwrap_or(default))
    };
    Ok(Shutdown {
        delay: duration("delay", Duration::from_secs(1))?,
        deadline: duration("deadline", Duration::from_secs(10))?,
    })
}
