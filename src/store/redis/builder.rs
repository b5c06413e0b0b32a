use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis-tls")]
use redis::ConnectionAddr;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};
#[cfg(feature = "redis-tls")]
use rustls::pki_types::{CertificateDer, pem::PemObject};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::denials::Denials;
use super::link::Link;
use super::script::Script;
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinel;
use super::server::Server;
use super::servers::Servers;
use super::{Core, RedisStore};
use crate::deadlines::Deadlines;
use crate::error::{RedisConfigError, shortened};
use crate::metrics::BatchMeter;
use crate::quota::check_name;

/// A peer that is gone without a word is noticed after so long, at the latest.
const UNANSWERED: Duration = Duration::from_secs(5);

/// Options of a [`RedisStore`]. What is wrong with them is told by
/// [`build`](RedisStoreBuilder::build).
#[must_use = "call `build` to get the store"]
#[derive(Clone)]
pub struct RedisStoreBuilder {
    urls: Vec<String>,
    kind: Kind,
    username: Option<String>,
    password: Option<String>,
    database: Option<u32>,
    prefix: String,
    connections: usize,
    most_keys: usize,
    longest_queue: usize,
    #[cfg(feature = "redis-tls")]
    root_certificates: Option<Vec<u8>>,
}

#[derive(Clone)]
enum Kind {
    One,
    #[cfg(feature = "redis-cluster")]
    Cluster,
    #[cfg(feature = "redis-sentinel")]
    Sentinel {
        service: String,
    },
}

impl RedisStoreBuilder {
    pub(super) fn one(url: &str) -> Self {
        Self::new([url], Kind::One)
    }

    #[cfg(feature = "redis-cluster")]
    pub(super) fn cluster<'a>(urls: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(urls, Kind::Cluster)
    }

    #[cfg(feature = "redis-sentinel")]
    pub(super) fn sentinel<'a>(urls: impl IntoIterator<Item = &'a str>, service: &str) -> Self {
        let service = service.into();
        Self::new(urls, Kind::Sentinel { service })
    }

    fn new<'a>(urls: impl IntoIterator<Item = &'a str>, kind: Kind) -> Self {
        Self {
            urls: urls.into_iter().map(str::to_owned).collect(),
            kind,
            username: None,
            password: None,
            database: None,
            prefix: "tollgate".into(),
            connections: 1,
            most_keys: 128,
            longest_queue: 10_000,
            #[cfg(feature = "redis-tls")]
            root_certificates: None,
        }
    }

    /// The user to log in as, instead of the URL's.
    pub fn username(self, username: &str) -> Self {
        let username = Some(username.into());
        Self { username, ..self }
    }

    /// The password to log in with, instead of the URL's.
    pub fn password(self, password: &str) -> Self {
        let password = Some(password.into());
        Self { password, ..self }
    }

    /// The number of the database, instead of the URL's: 0 unless set. A cluster has only 0.
    pub fn database(self, database: u32) -> Self {
        let database = Some(database);
        Self { database, ..self }
    }

    /// What all keys begin with: `tollgate` unless set. Stores with different prefixes never share
    /// counts.
    pub fn prefix(self, prefix: &str) -> Self {
        let prefix = prefix.into();
        Self { prefix, ..self }
    }

    /// How many connections each runtime makes to the server: 1 unless set, 64 at most. A cluster
    /// has one to each node.
    ///
    /// One carries more than a hundred thousand checks a second, since they share round trips. More are of
    /// use where the server is far away or reads on several threads.
    pub fn connections(self, connections: usize) -> Self {
        Self {
            connections,
            ..self
        }
    }

    /// How many keys (identities times policies) a round trip may carry: 128 unless set, 1,024 at
    /// most. The server does nothing else meanwhile.
    pub fn most_keys(self, keys: usize) -> Self {
        Self {
            most_keys: keys,
            ..self
        }
    }

    /// How many checks may wait for a connection: 10,000 unless set. One more fails at once, and
    /// the failure strategy decides it.
    pub fn longest_queue(self, checks: usize) -> Self {
        Self {
            longest_queue: checks,
            ..self
        }
    }

    /// The certificates, in PEM, of the authorities that vouch for the servers, instead of the
    /// operating system's.
    #[cfg(feature = "redis-tls")]
    pub fn root_certificates(self, pem: impl Into<Vec<u8>>) -> Self {
        Self {
            root_certificates: Some(pem.into()),
            ..self
        }
    }

    /// The store. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// If a URL is none or there is none at all, if the prefix is not one to 64 ASCII letters,
    /// digits, `.`, `_` and `-`, or if a number is out of its range.
    pub fn build(self) -> Result<RedisStore, RedisConfigError> {
        self.build_with(Script::new())
    }

    pub(super) fn build_with(self, script: Script) -> Result<RedisStore, RedisConfigError> {
        check_name("prefix", &self.prefix).map_err(|error| RedisConfigError(error.to_string()))?;
        in_range("connections", self.connections, 64)?;
        in_range("most_keys", self.most_keys, 1_024)?;
        in_range("longest_queue", self.longest_queue, usize::MAX)?;

        let servers = self.urls.iter().map(|url| self.read(url));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = servers.first().cloned() else {
            return Err(RedisConfigError("no URL is given: name one or more".into()));
        };
        let servers = match &self.kind {
            Kind::One => {
                let server = self.log_in(first);
                let link = || Arc::new(Link::new(Server::At(Box::new(server.clone()))));
                Servers::One((0..self.connections).map(|_| link()).collect())
            }
            #[cfg(feature = "redis-cluster")]
            Kind::Cluster => {
                let log_in = |node: ConnectionInfo| {
                    let node = node.set_redis_settings(first.redis_settings().clone());
                    self.log_in(node)
                };
                let seeds: Vec<_> = servers.into_iter().map(log_in).collect();
                if seeds[0].redis_settings().db() != 0 {
                    let error = "a cluster has only database 0: leave it out";
                    return Err(RedisConfigError(error.into()));
                }
                Servers::Cluster(Cluster::new(seeds))
            }
            #[cfg(feature = "redis-sentinel")]
            Kind::Sentinel { service } => {
                let primary = first.set_redis_settings(with_protocol(Default::default()));
                let primary = self.log_in(primary);
                let link = || {
                    let sentinel = Sentinel::new(servers.clone(), service.clone(), primary.clone());
                    Arc::new(Link::new(Server::Primary(Arc::new(sentinel))))
                };
                Servers::One((0..self.connections).map(|_| link()).collect())
            }
        };
        let core = Core {
            prefix: self.prefix,
            most_keys: self.most_keys,
            longest_queue: self.longest_queue,
            script,
            denials: Denials::new(),
            meter: BatchMeter::new(),
            deadlines: Deadlines::default(),
            servers,
        };
        Ok(RedisStore {
            core: Arc::new(core),
        })
    }
}

impl RedisStoreBuilder {
    /// How to connect to what a URL names.
    fn read(&self, url: &str) -> Result<ConnectionInfo, RedisConfigError> {
        let info = url.into_connection_info().map_err(|error| {
            let tls = ["rediss://", "valkeys://"].map(|scheme| url.starts_with(scheme));
            let reason = match cfg!(feature = "redis-tls") || tls == [false; 2] {
                true => error.to_string(),
                false => "TLS needs the feature `redis-tls`".into(),
            };
            let shown = without_password(url);
            RedisConfigError(format!(
                "`{shown}` is no URL of a Redis server: {reason}; write \
                 redis://[user:password@]host[:port][/database]"
            ))
        })?;
        #[cfg(feature = "redis-tls")]
        let info = self.trust(info)?;
        let settings = with_protocol(info.redis_settings().clone());
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(UNANSWERED));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let tcp = tcp.set_user_timeout(UNANSWERED);
        Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
    }

    /// The same way of connecting, as the user that the builder was told.
    fn log_in(&self, info: ConnectionInfo) -> ConnectionInfo {
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        if let Some(database) = self.database {
            settings = settings.set_db(database.into());
        }
        info.set_redis_settings(settings)
    }

    /// The same way of connecting, where it is by TLS with the certificates to trust.
    #[cfg(feature = "redis-tls")]
    fn trust(&self, info: ConnectionInfo) -> Result<ConnectionInfo, RedisConfigError> {
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Ok(info);
        }
        // The client takes the process's cryptography, and panics if there is none.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let Some(pem) = &self.root_certificates else {
            return Ok(info);
        };
        if CertificateDer::pem_slice_iter(pem).next().is_none() {
            let error = "the root certificates hold no certificate: give them in PEM";
            return Err(RedisConfigError(error.into()));
        }
        let certificates = redis::TlsCertificates {
            client_tls: None,
            root_cert: Some(pem.clone()),
        };
        let client = redis::Client::build_with_tls(info, certificates);
        let client = client.map_err(|error| {
            RedisConfigError(format!("the root certificates cannot be read: {error}"))
        })?;
        Ok(client.get_connection_info().clone())
    }
}

/// Enough of a bad URL to find it by, and nothing that may be a password, however bad it is.
fn without_password(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme.rsplit('@').next().unwrap_or_default(), rest),
        None => ("", url),
    };
    let separator = if scheme.is_empty() { "" } else { "://" };
    let place = rest.rsplit('@').next().unwrap_or_default();
    // A socket's password is in the query.
    let place = place.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    // What is no port is a password whose host was forgotten.
    let shown = match host.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') && port.parse::<u16>().is_err() => {
            format!("{scheme}{separator}{host}:…{path}")
        }
        _ => format!("{scheme}{separator}{place}"),
    };
    shortened(&shown)
}

/// Servers tell of a connection's end by RESP3, and list the library in CLIENT LIST.
fn with_protocol(settings: RedisConnectionInfo) -> RedisConnectionInfo {
    settings
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

fn in_range(option: &str, value: usize, most: usize) -> Result<(), RedisConfigError> {
    match value {
        0 => Err(RedisConfigError(format!(
            "`{option}` must be at least 1, not 0"
        ))),
        _ if value > most => Err(RedisConfigError(format!(
            "`{option}` must be at most {most}, not {value}"
        ))),
        _ => Ok(()),
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("servers", &self.urls.len())
            .field("username", &self.username)
            .field("prefix", &self.prefix)
            .field("connections", &self.connections)
            .field("most_keys", &self.most_keys)
            .field("longest_queue", &self.longest_queue)
            .finish_non_exhaustive()
    }
}
