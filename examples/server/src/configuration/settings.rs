//! What a configuration says.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tollgate::FailureStrategy;

use super::envoy::EnvoySettings;
use super::reader::{Field, Result, Table};
use super::secret::Secret;
use super::sources::Sources;
use super::tree::{Node, Origin, Value, from_toml};
use super::{admin, authentication, environment, envoy, limits};
use crate::authentication::{Authenticator, Tokens};
use crate::limits::Catalog;

/// All of a configuration.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) fixed: Fixed,
    pub(crate) rules: Rules,
}

/// What only a restart can change.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) listen: Listen,
    pub(crate) store: StoreSettings,
    pub(crate) log_filter: String,
    pub(crate) log_format: LogFormat,
    pub(crate) shutdown: Shutdown,
}

/// What a reload changes.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) failure_strategy: FailureStrategy,
    pub(crate) catalog: Catalog,
    pub(crate) authenticator: Authenticator,
    pub(crate) admin_tokens: Tokens<String>,
    pub(crate) envoy: EnvoySettings,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Listen {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    /// None where nobody may change anything.
    pub(crate) admin: Option<SocketAddr>,
    /// Connections of all listeners together; as many as the process can have unless set.
    pub(crate) max_connections: Option<u32>,
    /// Half of all unless set.
    pub(crate) max_connections_per_address: Option<u32>,
    /// How long a request may take to arrive and to be answered.
    pub(crate) request_deadline: Duration,
    /// After how long HTTP/2 clients, those of gRPC among them, are asked to reconnect.
    pub(crate) max_connection_age: Duration,
}

impl Listen {
    /// Whether only this machine reaches the listeners.
    fn is_local(&self) -> bool {
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
    /// How long a check may take.
    pub(crate) deadline: Duration,
}

#[derive(Debug, PartialEq)]
pub(crate) enum StoreKind {
    /// Counts in this process.
    Local { capacity: usize },
    /// Counts in Redis, shared by all who ask the same one.
    Redis {
        url: Secret,
        prefix: String,
        connections: usize,
        fallback_capacity: usize,
        replicas: NonZeroU32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shutdown {
    /// How long to go on after being told to stop, so that clients can go elsewhere.
    pub(crate) delay: Duration,
    /// How long to wait, after that, for what is under way.
    pub(crate) deadline: Duration,
}

const TABLES: [&str; 7] = [
    "listen",
    "store",
    "log",
    "shutdown",
    "authentication",
    "admin",
    "envoy",
];

const STRATEGIES: [(&str, FailureStrategy); 3] = [
    ("open", FailureStrategy::Open),
    ("open-unlimited", FailureStrategy::OpenUnlimited),
    ("closed", FailureStrategy::Closed),
];

impl Fixed {
    /// What another configuration has otherwise, and only a restart can change.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("listen", self.listen == other.listen),
            ("store", self.store == other.store),
            (
                "log",
                (&self.log_filter, self.log_format) == (&other.log_filter, other.log_format),
            ),
            ("shutdown", self.shutdown == other.shutdown),
        ];
        let others = same.into_iter().filter(|(_, same)| !same);
        others.map(|(name, _)| name).collect()
    }
}

impl Configuration {
    /// Reads the file, if there is to be one, and the environment. Whatever comes of it, the sources
    /// then say what was read.
    pub(crate) fn load(file: Option<&Path>, sources: &mut Sources) -> anyhow::Result<Self> {
        let root = match file {
            Some(path) => {
                let name = path.display().to_string();
                let text = sources
                    .read(path)
                    .with_context(|| format!("the configuration {name} cannot be read"))?;
                from_toml(&text, &name)?
            }
            None => Node {
                value: Value::Table(Vec::new()),
                origin: Origin::unwritten(),
            },
        };
        let directory = file.and_then(Path::parent).unwrap_or(Path::new(""));
        Ok(Self::from_tree(root, std::env::vars(), directory, sources)?)
    }

    fn from_tree(
        mut root: Node,
        variables: impl IntoIterator<Item = (String, String)>,
        directory: &Path,
        sources: &mut Sources,
    ) -> Result<Self> {
        environment::apply(&mut root, variables)?;
        let known = [&TABLES[..], &limits::TABLES].concat();
        let root = Field::root(&root).table(&known)?;
        let (store, failure_strategy) = store(&root)?;
        let (catalog, tokens) = limits::read(&root)?;
        let admin_tokens = admin::read(&root)?;
        let listen = listen(&root, !admin_tokens.is_empty())?;
        let envoy = envoy::read(&root, directory, sources)?;
        let authenticator =
            authentication::read(&root, tokens, !envoy.tokens.is_empty(), listen.is_local())?;
        if authenticator.required && !envoy.rules.is_empty() && envoy.tokens.is_empty() {
            let problem = "callers must authenticate, and Envoy could not: give it `tokens`";
            return Err(root.required("envoy")?.wrong(problem));
        }
        let (log_filter, log_format) = log(&root)?;
        Ok(Self {
            fixed: Fixed {
                listen,
                store,
                log_filter,
                log_format,
                shutdown: shutdown(&root)?,
            },
            rules: Rules {
                failure_strategy,
                catalog,
                authenticator,
                admin_tokens,
                envoy,
            },
        })
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn section<'a>(root: &Table<'a>, name: &str, known: &[&str]) -> Result<Option<Table<'a>>> {
    root.read(name, |field| field.table(known))
}

fn listen(root: &Table<'_>, has_admin: bool) -> Result<Listen> {
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
    Ok(Listen {
        http: address("http", 8080)?,
        grpc: address("grpc", 8081)?,
        admin: Some(address("admin", 8082)?).filter(|_| has_admin),
        max_connections: count("max_connections")?,
        max_connections_per_address: count("max_connections_per_address")?,
        request_deadline: duration("request_deadline", Duration::from_secs(10))?,
        max_connection_age: duration("max_connection_age", Duration::from_secs(300))?,
    })
}

fn store(root: &Table<'_>) -> Result<(StoreSettings, FailureStrategy)> {
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
    let shared = table.read("kind", |field| {
        field.choice(&[("local", false), ("redis", true)])
    })?;
    // A URL says enough.
    let shared = shared.unwrap_or(table.get("url").is_some());
    let foreign = if shared { &LOCAL[..] } else { &REDIS };
    if let Some(field) = foreign.iter().find_map(|name| table.get(name)) {
        let (this, other) = if shared {
            ("redis", "local")
        } else {
            ("local", "redis")
        };
        return Err(field.wrong(format!("the store is {this}, and this is for {other}")));
    }
    let count = |name: &str, most: u32, default: u32| {
        let count = table.read(name, |field| field.number(1..=most))?;
        Ok(count.unwrap_or(default))
    };
    let kind = match shared {
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
    let prefix = table.read("prefix", Field::text)?.unwrap_or("tollgate");
    let connections = count("connections", 64, 1)? as usize;
    // The library knows best what it takes, and its errors show no password.
    let store = tollgate::RedisStore::builder(url.text()?)
        .prefix(prefix)
        .build();
    store.map_err(|error| url.wrong(error))?;
    Ok(StoreKind::Redis {
        url: url.secret()?,
        prefix: prefix.to_owned(),
        connections,
        fallback_capacity: count("fallback_capacity", u32::MAX, 100_000)? as usize,
        replicas: NonZeroU32::new(count("replicas", 10_000, 1)?).unwrap_or(NonZeroU32::MIN),
    })
}

fn log(root: &Table<'_>) -> Result<(String, LogFormat)> {
    let table = section(root, "log", &["filter", "format"])?;
    let Some(table) = table else {
        return Ok(("info".to_owned(), LogFormat::Text));
    };
    let filter = table.read("filter", |field| {
        let text = field.text()?;
        match text.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(text),
            Err(error) => Err(field.wrong(format!(
                "{text:?} is no filter ({error}): write `info` or `warn,tollgate=debug`"
            ))),
        }
    })?;
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = table.read("format", |field| field.choice(&formats))?;
    Ok((
        filter.unwrap_or("info").to_owned(),
        format.unwrap_or(LogFormat::Text),
    ))
}

fn shutdown(root: &Table<'_>) -> Result<Shutdown> {
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
