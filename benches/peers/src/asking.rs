//! The limiters that count in Redis, and the least that could be one, each on a connection of its
//! own.

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

use crate::allowance::Allowance;
use crate::layers;

/// Asks whether a client, by its place in a list, is allowed one more request.
pub(crate) trait Ask: Clone + Send + 'static {
    fn ask(&mut self, client: usize) -> impl Future<Output = bool> + Send;
}

#[derive(Clone)]
pub(crate) struct Tollgate {
    limiter: Limiter,
    limits: Limits,
    identities: Arc<[Identity]>,
}

impl Tollgate {
    pub(crate) fn new(limiter: Limiter, allowance: Allowance, clients: &[String]) -> Self {
        Self {
            limiter,
            limits: allowance.tollgate(),
            identities: clients.iter().map(|name| Identity::user(name)).collect(),
        }
    }
}

impl Ask for Tollgate {
    async fn ask(&mut self, client: usize) -> bool {
        let check = Check::new(&self.identities[client], &self.limits);
        let decision = self.limiter.check(&check).await;
        assert!(!decision.is_degraded(), "Redis is to decide");
        decision.is_allowed()
    }
}

/// A limiter on Redis that leaves it time enough to decide everything itself.
pub(crate) fn patient_limiter(url: &str) -> anyhow::Result<Limiter> {
    let store = RedisStore::new(url)?;
    let limiter = Limiter::builder(store).deadline(Duration::from_secs(5));
    Ok(limiter.build())
}

/// tower-rate-limit-redis, which is a middleware only, around a service that does nothing.
#[derive(Clone)]
pub(crate) struct Peer<S> {
    service: S,
    keys: Arc<[Key]>,
}

type Key = Arc<String>;

pub(crate) fn peer(
    connection: redis_0_32::aio::MultiplexedConnection,
    allowance: Allowance,
    clients: &[String],
) -> impl Ask {
    let layer = layers::tower_rate_limit_redis(allowance, ByExtension, connection);
    let nothing = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(()))));
    Peer {
        service: layer.layer(nothing),
        keys: clients.iter().cloned().map(Key::new).collect(),
    }
}

/// A connection of its client, as its example makes it.
pub(crate) async fn connection_of_peer(
    url: &str,
) -> anyhow::Result<redis_0_32::aio::MultiplexedConnection> {
    let client = redis_0_32::Client::open(url)?;
    Ok(client.get_multiplexed_async_connection().await?)
}

impl<S> Ask for Peer<S>
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    async fn ask(&mut self, client: usize) -> bool {
        let mut request = Request::new(());
        request.extensions_mut().insert(self.keys[client].clone());
        let Ok(service) = self.service.ready().await;
        let Ok(response) = service.call(request).await;
        match response.status() {
            StatusCode::OK => true,
            StatusCode::TOO_MANY_REQUESTS => false,
            other => panic!("tower-rate-limit-redis says {other}"),
        }
    }
}

/// The key as it was put there: nothing is to be read or written for it.
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

/// One read and one write by a script, and nothing exact about it.
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

impl Ask for LeanScript {
    async fn ask(&mut self, client: usize) -> bool {
        let mut command = cmd("EVALSHA");
        command.arg(&*self.hash).arg(1).arg(&self.keys[client]);
        command.arg(1_000_000).arg(60_000);
        let answer = command.query_async(&mut self.connection).await;
        answer.expect("Redis answers")
    }
}

#[derive(Clone)]
pub(crate) struct Ping(MultiplexedConnection);

impl Ping {
    pub(crate) async fn new(url: &str) -> anyhow::Result<Self> {
        Ok(Self(connect(url).await?))
    }
}

impl Ask for Ping {
    async fn ask(&mut self, _client: usize) -> bool {
        let answer = cmd("PING").exec_async(&mut self.0).await;
        answer.is_ok()
    }
}

/// Without a limit of time for an answer, as the peer's has none.
async fn connect(url: &str) -> anyhow::Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let client = Client::open(url)?;
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}
