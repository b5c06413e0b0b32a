use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis-tls")]
use redis::ConnectionAddr;
use redis::ConnectionInfo;

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::credentials::{Provider, RedisCredentials};
use super::denials::Denials;
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
use super::endpoint::MapAddress;
use super::endpoint::{Endpoint, Options};
use super::link::Link;
use super::script::Script;
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinel;
use super::server::Server;
use super::servers::Servers;
#[cfg(feature = "redis-tls")]
use super::tls::{ClientCertificate, Tls};
use super::url;
use super::{Core, RedisStore};
use crate::error::RedisConfigError;
use crate::metrics::BatchMeter;
use crate::quota::check_name;

/// The shortest age at which connections may be replaced.
const SHORTEST_AGE: Duration = Duration::from_secs(1);

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
    one_identity_per_call: bool,
    credentials: Option<Provider>,
    max_connection_age: Option<Duration>,
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    discovery_timeout: Option<Duration>,
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    map_address: Option<MapAddress>,
    #[cfg(feature = "redis-tls")]
    root_certificates: Option<Vec<u8>>,
    #[cfg(feature = "redis-tls")]
    client_certificate: Option<ClientCertificate>,
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
            one_identity_per_call: false,
            credentials: None,
            max_connection_age: None,
            #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
            discovery_timeout: None,
            #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
            map_address: None,
            #[cfg(feature = "redis-tls")]
            root_certificates: None,
            #[cfg(feature = "redis-tls")]
            client_certificate: None,
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

    /// Asks `provider` for user and password whenever a connection is made, instead of taking those of
    /// the URL: for tokens that expire, and passwords that are rotated.
    ///
    /// Connections that are open keep the rights that they were given: set
    /// [`max_connection_age`](Self::max_connection_age) where the server closes connections whose
    /// token has expired. The provider has a second, less what connecting takes. When it fails, its
    /// error is logged as the cause of the outage. The sentinels' users stay those of their URLs.
    ///
    /// ```
    /// use std::io;
    ///
    /// use tollgate::{RedisCredentials, RedisStore};
    ///
    /// let store = RedisStore::builder("redis://redis.internal")
    ///     .credentials(async || {
    ///         let password = tokio::fs::read_to_string("/run/secrets/redis").await?;
    ///         Ok::<_, io::Error>(RedisCredentials::new("tollgate", password.trim()))
    ///     })
    ///     .build()?;
    /// # Ok::<(), tollgate::RedisConfigError>(())
    /// ```
    pub fn credentials<P, F, E>(self, provider: P) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self {
            credentials: Some(Provider::new(provider)),
            ..self
        }
    }

    /// Replaces a connection in the background when it is half as old as this to as old, at random:
    /// never unless set, a second at least.
    ///
    /// Checks go on over the old connection until the new one is ready. An idle connection is replaced
    /// at its next use.
    pub fn max_connection_age(self, age: Duration) -> Self {
        Self {
            max_connection_age: Some(age),
            ..self
        }
    }

    /// Gives each identity's checks a call of their own: for a proxy that spreads keys over several
    /// servers and sends a call to the server of its first key, such as Envoy or twemproxy. Off unless
    /// set. The proxy must honour hash tags, so that all keys of an identity are at one server.
    ///
    /// Calls that wait are still sent at once. A cluster, and a proxy that answers `CROSSSLOT`, are
    /// noticed without this.
    pub fn one_identity_per_call(self, separate: bool) -> Self {
        Self {
            one_identity_per_call: separate,
            ..self
        }
    }

    /// How long a node or sentinel may take to connect and to say where the servers are. Unless set,
    /// it has a second to connect, and then twice as long as that took to answer, but at least 250 ms.
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub fn discovery_timeout(self, timeout: Duration) -> Self {
        Self {
            discovery_timeout: Some(timeout),
            ..self
        }
    }

    /// Translates each address that a node or sentinel names, where servers do not know the addresses
    /// by which this process reaches them: behind NAT, or in containers.
    ///
    /// ```
    /// use tollgate::RedisStore;
    ///
    /// let store = RedisStore::cluster(["redis://gateway:7001"])
    ///     .map_address(|_host, port| ("gateway".into(), port + 1_000))
    ///     .build()?;
    /// # Ok::<(), tollgate::RedisConfigError>(())
    /// ```
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub fn map_address(
        self,
        map: impl Fn(&str, u16) -> (String, u16) + Send + Sync + 'static,
    ) -> Self {
        Self {
            map_address: Some(Arc::new(map)),
            ..self
        }
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

    /// How many different checks may wait for a connection: 10,000 unless set. One more fails at once,
    /// and the failure strategy decides it.
    ///
    /// Equal checks (of the same identity, limits and cost) count once. The checks of one identity may
    /// take an eighth of the queue.
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

    /// The certificate chain and key, both in PEM, that the store shows to servers that ask for them.
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (chain, key) = (chain.into(), key.into());
        Self {
            client_certificate: Some(ClientCertificate { chain, key }),
            ..self
        }
    }

    /// The store. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// If a URL cannot be read or none is given, if the prefix is not one to 64 ASCII letters, digits,
    /// `.`, `_` and `-`, if a number or a time is out of its range, or if certificates cannot be read.
    pub fn build(self) -> Result<RedisStore, RedisConfigError> {
        self.build_with(Script::new())
    }

    pub(super) fn build_with(self, script: Script) -> Result<RedisStore, RedisConfigError> {
        check_name("prefix", &self.prefix).map_err(|error| RedisConfigError(error.to_string()))?;
        in_range("connections", self.connections, 64)?;
        in_range("most_keys", self.most_keys, 1_024)?;
        in_range("longest_queue", self.longest_queue, usize::MAX)?;

        if let Some(age) = self.max_connection_age.filter(|age| *age < SHORTEST_AGE) {
            return Err(RedisConfigError(format!(
                "`max_connection_age` must be at least {SHORTEST_AGE:?}, not {age:?}"
            )));
        }

        let servers = self.urls.iter().map(|url| url::read(url));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = servers.first() else {
            return Err(RedisConfigError("no URL is given: name one or more".into()));
        };
        let options = Arc::new(self.options(&servers)?);
        let endpoint = |info: &ConnectionInfo| Endpoint {
            address: info.addr().clone(),
            login: info.redis_settings().clone(),
            credentials: None,
            options: options.clone(),
        };
        let separate = self.one_identity_per_call;
        let servers = match &self.kind {
            Kind::One => {
                let server = Box::new(self.log_in(endpoint(first)));
                let link = || Arc::new(Link::new(Server::At(server.clone()), separate));
                Servers::One((0..self.connections).map(|_| link()).collect())
            }
            #[cfg(feature = "redis-cluster")]
            Kind::Cluster => {
                let log_in = |node: &ConnectionInfo| {
                    let login = first.redis_settings().clone();
                    self.log_in(Endpoint {
                        login,
                        ..endpoint(node)
                    })
                };
                let seeds: Vec<_> = servers.iter().map(log_in).collect();
                if seeds[0].login.db() != 0 {
                    let error = "a cluster has only database 0: leave it out";
                    return Err(RedisConfigError(error.into()));
                }
                Servers::Cluster(Box::new(Cluster::new(seeds)))
            }
            #[cfg(feature = "redis-sentinel")]
            Kind::Sentinel { service } => {
                let protocol = first.redis_settings().protocol();
                let primary = self.log_in(Endpoint {
                    login: redis::RedisConnectionInfo::default().set_protocol(protocol),
                    ..endpoint(first)
                });
                let sentinels: Vec<_> = servers.iter().map(endpoint).collect();
                let link = || {
                    let (service, primary) = (service.clone(), primary.clone());
                    let sentinel = Sentinel::new(sentinels.clone(), service, primary);
                    let server = Server::Primary(Arc::new(sentinel));
                    Arc::new(Link::new(server, separate))
                };
                Servers::One((0..self.connections).map(|_| link()).collect())
            }
        };
        let core = Core {
            prefix: self.prefix,
            most_keys: self.most_keys,
            longest_queue: self.longest_queue,
            max_connection_age: self.max_connection_age,
            script,
            denials: Denials::new(),
            meter: BatchMeter::new(),
            servers,
        };
        Ok(RedisStore {
            core: Arc::new(core),
        })
    }
}

impl RedisStoreBuilder {
    /// The options that all endpoints share.
    #[cfg_attr(
        not(feature = "redis-tls"),
        expect(unused_variables, reason = "no server is connected to with TLS")
    )]
    fn options(&self, servers: &[ConnectionInfo]) -> Result<Options, RedisConfigError> {
        #[cfg(feature = "redis-tls")]
        let tls = match servers.iter().any(is_tls) {
            true => Some(Tls::new(
                self.root_certificates.as_deref(),
                self.client_certificate.as_ref(),
            )?),
            false => None,
        };
        Ok(Options {
            #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
            map_address: self.map_address.clone(),
            #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
            discovery_timeout: self.discovery_timeout,
            #[cfg(feature = "redis-tls")]
            tls,
        })
    }

    /// The same endpoint, with the builder's user instead of the URL's.
    fn log_in(&self, mut endpoint: Endpoint) -> Endpoint {
        endpoint.credentials = self.credentials.clone();
        let login = &mut endpoint.login;
        if let Some(username) = &self.username {
            *login = login.clone().set_username(username);
        }
        if let Some(password) = &self.password {
            *login = login.clone().set_password(password);
        }
        if let Some(database) = self.database {
            *login = login.clone().set_db(database.into());
        }
        endpoint
    }
}

#[cfg(feature = "redis-tls")]
fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
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
