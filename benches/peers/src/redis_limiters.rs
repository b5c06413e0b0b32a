//! The limiters that count in Redis, and two baselines: the smallest script that could be a
//! limiter, and PING. Each has its own connection.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Script, cmd};
use tollgate::{Check, Identity, Limiter, Limits, RedisStore};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_rate_limit_redis::KeyResolver;

use crate::layers;
use crate::token_bucket::TokenBucket;

/// A limiter that counts in Redis.
pub(crate) trait RedisLimiter: Clone + Send + 'static {
    /// Makes a check of the client with this index, and returns whether it was allowed.
    fn allows(&mut self, client: usize) -> impl Future<Output = bool> + Send;
}

/// tollgate's `Limiter` with a `RedisStore`.
#[derive(Clone)]
pub(crate) struct Tollgate {
    limiter: Limiter,
    limits: Limits,
    identities: Arc<[Identity]>,
}

impl Tollgate {
    pub(crate) fn new(limiter: Limiter, bucket: TokenBucket, clients: &[String]) -> Self {
        Self {
            limiter,
            limits: bucket.tollgate(),
            identities: clients.iter().map(|name| Identity::user(name)).collect(),
        }
    }
}

impl RedisLimiter for Tollgate {
    async fn allows(&mut self, client: usize) -> bool {
        let check = Check::new(&self.identities[client], &self.limits);
        let decision = self.limiter.check(&check).await;
        assert!(!decision.is_degraded(), "Redis did not decide");
        decision.is_allowed()
    }
}

/// Returns a limiter whose deadline is so long that Redis makes every decision.
pub(crate) fn tollgate_limiter(url: &str) -> anyhow::Result<Limiter> {
    let store = RedisStore::new(url)?;
    let limiter = Limiter::builder(store).deadline(Duration::from_secs(5));
    Ok(limiter.build())
}

/// tower-rate-limit-redis, which is only a middleware, around a service that does nothing.
#[derive(Clone)]
pub(crate) struct Peer<S> {
    service: S,
    keys: Arc<[Key]>,
}

type Key = Arc<String>;

/// Returns tower-rate-limit-redis with a key for each client.
pub(crate) fn peer(
    connection: redis_0_32::aio::MultiplexedConnection,
    bucket: TokenBucket,
    clients: &[String],
) -> impl RedisLimiter {
    let layer = layers::tower_rate_limit_redis(bucket, ByExtension, connection);
    let nothing = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(()))));
    Peer {
        service: layer.layer(nothing),
        keys: clients.iter().cloned().map(Key::new).collect(),
    }
}

/// Opens a connection for tower-rate-limit-redis, as its example does.
pub(crate) async fn connect_peer(
    url: &str,
) -> anyhow::Result<redis_0_32::aio::MultiplexedConnection> {
    let client = redis_0_32::Client::open(url)?;
    Ok(client.get_multiplexed_async_connection().await?)
}

impl<S> RedisLimiter for Peer<S>
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    async fn allows(&mut self, client: usize) -> bool {
        let mut request = Request::new(());
        request.extensions_mut().insert(self.keys[client].clone());
        let Ok(service) = self.service.ready().await;
        let Ok(response) = service.call(request).await;
        match response.status() {
            StatusCode::OK => true,
            StatusCode::TOO_MANY_REQUESTS => false,
            other => panic!("tower-rate-limit-redis responded with {other}"),
        }
    }
}

/// Takes the key from the request's extensions, so that it costs no parsing and no formatting.
#[derive(Clone)]
struct ByExtension;

impl KeyResolver for ByExtension {
    type Key = Key;
    type ErrorBody = ();

    fn key<T>(&self, request: &Request<T>) -> Result<Key, Response<()>> {
        let key = request.extensions().get();
        Ok(Key::clone(key.expect("each request has a key")))
    }
}

/// A script with one read and one write, the smallest that could be a limiter.
#[derive(Clone)]
pub(crate) struct LeanScript {
    connection: MultiplexedConnection,
    hash: Arc<str>,
    keys: Arc<[String]>,
}

impl LeanScript {
    const SOURCE: &str = "
        local left = (redis.call('GET', KEYS[1]) or ARGV[1]) - 1
        if left < 0 then return 0 end
        redis.call('SET', KEYS[1], left, 'PX', ARGV[2])
        return 1";

    pub(crate) async fn new(url: &str, clients: &[String]) -> anyhow::Result<Self> {
        let mut connection = connect(url).await?;
        let script = Script::new(Self::SOURCE);
        script.load_async(&mut connection).await?;
        Ok(Self {
            connection,
            hash: script.get_hash().into(),
            keys: clients.iter().map(|name| format!("lean:{name}")).collect(),
        })
    }
}

impl RedisLimiter for LeanScript {
    async fn allows(&mut self, client: usize) -> bool {
        let mut command = cmd("EVALSHA");
        command.arg(&*self.hash).arg(1).arg(&self.keys[client]);
        command.arg(1_000_000).arg(60_000);
        let reply = command.query_async(&mut self.connection).await;
        reply.expect("a reply of Redis")
    }
}

/// The command PING, which allows every check.
#[derive(Clone)]
pub(crate) struct Ping(MultiplexedConnection);

impl Ping {
    pub(crate) async fn new(url: &str) -> anyhow::Result<Self> {
        Ok(Self(connect(url).await?))
    }
}

impl RedisLimiter for Ping {
    async fn allows(&mut self, _client: usize) -> bool {
        cmd("PING").exec_async(&mut self.0).await.is_ok()
    }
}

/// Opens a connection without a response timeout, as that of tower-rate-limit-redis has none.
async fn connect(url: &str) -> anyhow::Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let client = Client::open(url)?;
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}
