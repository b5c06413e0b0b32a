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
use super::config_error::RedisConfigError;
use super::credentials::{CredentialsProvider, RedisCredentials};
use super::denial_cache::DenialCache;
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
use super::endpoint::MapAddress;
use super::endpoint::{Endpoint, Options};
use super::script::Script;
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinel;
use super::server::Server;
use super::server_queue::ServerQueue;
use super::shared::{Shared, Topology};
use super::single_server::SingleServer;
use super::store::RedisStore;
#[cfg(feature = "redis-tls")]
use super::tls::{ClientCertificate, Tls};
use super::url;
use crate::metrics::BatchMeter;
use crate::quota::check_name;
use crate::timeouts::Timeouts;

const MIN_CONNECTION_AGE: Duration = Duration::from_secs(1);

impl RedisStore {
    /// Creates a store on one server.
    ///
    /// The URL is `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS
    /// (feature `redis-tls`), or `redis+unix:///path[?user=…&pass=…&db=…]` for a Unix socket.
    ///
    /// Percent-encode special characters of the user and password: `@` as `%40`. The store speaks RESP2,
    /// which every server and proxy supports; `?protocol=resp3` selects RESP3.
    ///
    /// # Errors
    ///
    /// If the URL is invalid. [`ping`](RedisStore::ping) tells whether the server can be reached.
    pub fn new(url: &str) -> Result<Self, RedisConfigError> {
        Self::builder(url).build()
    }

    /// Returns a builder of a store on one server, at a URL as of [`new`](RedisStore::new).
    pub fn builder(url: &str) -> RedisStoreBuilder {
        RedisStoreBuilder::new([url], Mode::SingleServer)
    }

    /// Returns a builder of a store on a Redis Cluster, whose nodes are discovered from these URLs.
    ///
    /// At least one of them must reach a node. The user and password of the first are used for all nodes.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<'a>(urls: impl IntoIterator<Item = &'a str>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(urls, Mode::Cluster)
    }

    /// Returns a builder of a store on the primary that Redis Sentinel monitors as `service`. The URLs are
    /// those of the sentinels.
    ///
    /// User and password in the URLs are for the sentinels. Set user and password for the server on the
    /// builder. If the first URL is for TLS, the connection to the server uses TLS too.
    #[cfg(feature = "redis-sentinel")]
    pub fn sentinel<'a>(
        urls: impl IntoIterator<Item = &'a str>,
        service: &str,
    ) -> RedisStoreBuilder {
        let service = service.into();
        RedisStoreBuilder::new(urls, Mode::Sentinel { service })
    }
}

/// Options of a [`RedisStore`]. [`build`](RedisStoreBuilder::build) validates them.
#[must_use = "call `build` to get the store"]
#[derive(Clone)]
pub struct RedisStoreBuilder {
    urls: Vec<String>,
    mode: Mode,
    username: Option<String>,
    password: Option<String>,
    database: Option<u32>,
    prefix: String,
    connections: usize,
    max_batch_keys: usize,
    max_queue: usize,
    one_identity_per_call: bool,
    credentials: Option<CredentialsProvider>,
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
enum Mode {
    SingleServer,
    #[cfg(feature = "redis-cluster")]
    Cluster,
    #[cfg(feature = "redis-sentinel")]
    Sentinel {
        service: String,
    },
}

impl RedisStoreBuilder {
    fn new<'a>(urls: impl IntoIterator<Item = &'a str>, mode: Mode) -> Self {
        Self {
            urls: urls.into_iter().map(str::to_owned).collect(),
            mode,
            username: None,
            password: None,
            database: None,
            prefix: "tollgate".into(),
            connections: 1,
            max_batch_keys: 128,
            max_queue: 10_000,
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

    /// Sets the user, in place of that of the URL.
    pub fn username(self, username: &str) -> Self {
        let username = Some(username.into());
        Self { username, ..self }
    }

    /// Sets the password, in place of that of the URL.
    pub fn password(self, password: &str) -> Self {
        let password = Some(password.into());
        Self { password, ..self }
    }

    /// Calls `provider` for the user and password of each new connection, in place of those of the URL:
    /// for tokens that expire, and passwords that are rotated.
    ///
    /// An open connection keeps its permissions: set [`max_connection_age`](Self::max_connection_age) if
    /// the server closes connections whose token has expired. Connecting, with the call of the provider,
    /// has a timeout of one second. An error of the provider is logged as the cause of the outage. The
    /// connections to sentinels use the users of their URLs.
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
            credentials: Some(CredentialsProvider::new(provider)),
            ..self
        }
    }

    /// Replaces each connection in the background at a random age between half of `age` and `age`, which
    /// must be at least a second. By default, connections are not replaced.
    ///
    /// The old connection is used until the new one is ready. An idle connection is replaced at its next
    /// use.
    pub fn max_connection_age(self, age: Duration) -> Self {
        Self {
            max_connection_age: Some(age),
            ..self
        }
    }

    /// Sends a call of the script for each identity: for a proxy that distributes keys over several
    /// servers by the first key of a call, such as Envoy or twemproxy. Off by default. The proxy must
    /// support hash tags, so that all keys of an identity are on one server.
    ///
    /// The calls of a batch are still sent in one pipeline. A server or proxy that replies `CROSSSLOT` is
    /// detected without this option.
    pub fn one_identity_per_call(self, enabled: bool) -> Self {
        Self {
            one_identity_per_call: enabled,
            ..self
        }
    }

    /// Sets the timeout for connecting to a node or sentinel and querying the topology. By default,
    /// connecting has a timeout of a second, and the query has a timeout of twice the time that connecting
    /// took, but at least 250 ms.
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub fn discovery_timeout(self, timeout: Duration) -> Self {
        Self {
            discovery_timeout: Some(timeout),
            ..self
        }
    }

    /// Translates each address that a node or sentinel returns. Needed if this process reaches the servers
    /// at other addresses than they know: behind NAT, or in containers.
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

    /// Sets the number of the database, in place of that of the URL. The default is 0, the only database
    /// of a cluster.
    pub fn database(self, database: u32) -> Self {
        let database = Some(database);
        Self { database, ..self }
    }

    /// Sets the prefix of all keys. The default is `tollgate`. Stores with different prefixes share no
    /// state.
    pub fn prefix(self, prefix: &str) -> Self {
        let prefix = prefix.into();
        Self { prefix, ..self }
    }

    /// Sets the number of connections of each runtime to the server, from 1 to 64. The default is 1. A
    /// cluster has one connection to each node.
    ///
    /// One connection carries more than a hundred thousand checks a second, since they share round trips.
    /// More can help if the server is far away, or reads on several threads.
    pub fn connections(self, connections: usize) -> Self {
        Self {
            connections,
            ..self
        }
    }

    /// Sets the maximum number of keys (identities times policies) of a batch, from 1 to 1,024. The default
    /// is 128. The server runs nothing else during a call of the script.
    pub fn max_batch_keys(self, keys: usize) -> Self {
        Self {
            max_batch_keys: keys,
            ..self
        }
    }

    /// Sets the maximum number of different checks in a queue. The default is 10,000. A check that finds the
    /// queue full fails at once, and the failure strategy decides it.
    ///
    /// Equal checks (of the same identity, limits and cost) count as one. The checks of one identity may
    /// fill an eighth of the queue.
    pub fn max_queue(self, checks: usize) -> Self {
        Self {
            max_queue: checks,
            ..self
        }
    }

    /// Sets the trusted root certificates, in PEM, in place of those of the operating system.
    #[cfg(feature = "redis-tls")]
    pub fn root_certificates(self, pem: impl Into<Vec<u8>>) -> Self {
        Self {
            root_certificates: Some(pem.into()),
            ..self
        }
    }

    /// Sets the client certificate, for servers that require one: the chain and the private key, in PEM.
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (chain, key) = (chain.into(), key.into());
        Self {
            client_certificate: Some(ClientCertificate { chain, key }),
            ..self
        }
    }

    /// Builds the store, which connects on first use.
    ///
    /// # Errors
    ///
    /// If a URL is invalid or none is given, if the prefix is not 1 to 64 ASCII letters, digits, `.`, `_`
    /// and `-`, if a number or a duration is out of range, or if certificates cannot be parsed.
    pub fn build(self) -> Result<RedisStore, RedisConfigError> {
        self.build_with(Script::new())
    }

    pub(super) fn build_with(self, script: Script) -> Result<RedisStore, RedisConfigError> {
        let topology = self.topology()?;
        Ok(self.build_on(topology, script))
    }

    pub(super) fn build_on(self, topology: Box<dyn Topology>, script: Script) -> RedisStore {
        let shared = Shared {
            prefix: self.prefix,
            max_batch_keys: self.max_batch_keys,
            max_queue: self.max_queue,
            max_connection_age: self.max_connection_age,
            script,
            denials: DenialCache::new(),
            meter: BatchMeter::new(),
            timeouts: Timeouts::default(),
            topology,
        };
        RedisStore {
            shared: Arc::new(shared),
        }
    }
}

impl RedisStoreBuilder {
    fn validate(&self) -> Result<(), RedisConfigError> {
        check_name("prefix", &self.prefix)
            .map_err(|error| RedisConfigError::option(error.to_string()))?;
        in_range("connections", self.connections, 64)?;
        in_range("max_batch_keys", self.max_batch_keys, 1_024)?;
        in_range("max_queue", self.max_queue, usize::MAX)?;

        if let Some(age) = self
            .max_connection_age
            .filter(|age| *age < MIN_CONNECTION_AGE)
        {
            return Err(RedisConfigError::option(format!(
                "`max_connection_age` must be at least {MIN_CONNECTION_AGE:?}, not {age:?}"
            )));
        }

        Ok(())
    }

    /// Validates the options.
    fn topology(&self) -> Result<Box<dyn Topology>, RedisConfigError> {
        self.validate()?;
        let servers = self.urls.iter().map(|url| url::parse(url));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = servers.first() else {
            return Err(RedisConfigError::url("no URL is given: name one or more"));
        };
        let options = Arc::new(self.endpoint_options(&servers)?);
        let endpoint = |info: &ConnectionInfo| Endpoint {
            address: info.addr().clone(),
            login: info.redis_settings().clone(),
            credentials: None,
            options: options.clone(),
        };
        Ok(match &self.mode {
            Mode::SingleServer => {
                let endpoint = Box::new(self.with_login(endpoint(first)));
                Box::new(self.single_server(|| Server::Single(endpoint.clone())))
            }
            #[cfg(feature = "redis-cluster")]
            Mode::Cluster => {
                let seed = |node: &ConnectionInfo| {
                    let login = first.redis_settings().clone();
                    self.with_login(Endpoint {
                        login,
                        ..endpoint(node)
                    })
                };
                let seeds: Vec<_> = servers.iter().map(seed).collect();
                if seeds[0].login.db() != 0 {
                    let error = "a cluster has only database 0: leave it out";
                    return Err(RedisConfigError::url(error));
                }
                Box::new(Arc::new(Cluster::new(seeds)))
            }
            #[cfg(feature = "redis-sentinel")]
            Mode::Sentinel { service } => {
                let protocol = first.redis_settings().protocol();
                let primary = self.with_login(Endpoint {
                    login: redis::RedisConnectionInfo::default().set_protocol(protocol),
                    ..endpoint(first)
                });
                let sentinels: Vec<_> = servers.iter().map(endpoint).collect();
                Box::new(self.single_server(|| {
                    let (service, primary) = (service.clone(), primary.clone());
                    let sentinel = Sentinel::new(sentinels.clone(), service, primary);
                    Server::Primary(Arc::new(sentinel))
                }))
            }
        })
    }

    fn single_server(&self, server: impl Fn() -> Server) -> SingleServer {
        let queue = || Arc::new(ServerQueue::new(server(), self.one_identity_per_call));
        SingleServer {
            queues: (0..self.connections).map(|_| queue()).collect(),
        }
    }

    /// The options that all endpoints share.
    #[cfg_attr(
        not(feature = "redis-tls"),
        expect(unused_variables, reason = "only TLS depends on the URLs")
    )]
    fn endpoint_options(&self, servers: &[ConnectionInfo]) -> Result<Options, RedisConfigError> {
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

    /// Replaces the endpoint's user, password and database by those of the builder.
    fn with_login(&self, mut endpoint: Endpoint) -> Endpoint {
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

fn in_range(option: &str, value: usize, max: usize) -> Result<(), RedisConfigError> {
    match value {
        0 => Err(RedisConfigError::option(format!(
            "`{option}` must be at least 1, not 0"
        ))),
        _ if value > max => Err(RedisConfigError::option(format!(
            "`{option}` must be at most {max}, not {value}"
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
            .field("max_batch_keys", &self.max_batch_keys)
            .field("max_queue", &self.max_queue)
            .finish_non_exhaustive()
    }
}
