//! How to connect to a server: its address, how to log in, and TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{AsyncConnectionConfig, ConnectionAddr, Pipeline, RedisConnectionInfo, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::credentials::Provider;
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
use super::refusal::unavailable;
use super::refusal::{Refusal, broken};
#[cfg(feature = "redis-tls")]
use super::tls::Tls;
use crate::store::{StoreError, StoreErrorKind};

/// The kernel closes a connection whose peer has not answered for this long.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// Translates an address that a node or sentinel named.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
pub(super) type MapAddress = Arc<dyn Fn(&str, u16) -> (String, u16) + Send + Sync>;

/// A server's address, and how to log in there.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) address: ConnectionAddr,
    /// User, password, database and protocol.
    pub(super) login: RedisConnectionInfo,
    /// Replaces user and password.
    pub(super) credentials: Option<Provider>,
    #[cfg_attr(
        not(any(
            feature = "redis-cluster",
            feature = "redis-sentinel",
            feature = "redis-tls"
        )),
        expect(dead_code, reason = "all options belong to these features")
    )]
    pub(super) options: Arc<Options>,
}

/// Options that all endpoints of a store share.
#[derive(Default)]
pub(super) struct Options {
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) map_address: Option<MapAddress>,
    /// How long to wait for what a node or sentinel says of the topology.
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) discovery_timeout: Option<Duration>,
    #[cfg(feature = "redis-tls")]
    pub(super) tls: Option<Tls>,
}

/// A connection and the task that drives it, which ends when this is dropped.
pub(super) struct Client {
    pub(super) connection: MultiplexedConnection,
    driver: AbortHandle,
}

impl Client {
    /// Sends commands, none of which may be refused.
    async fn send_all(&self, commands: &Pipeline) -> Result<(), StoreError> {
        if commands.is_empty() {
            return Ok(());
        }
        let mut connection = self.connection.clone();
        let replies = connection.send_packed_commands(commands, 0, commands.len());
        for reply in replies.await.map_err(|error| broken(&error))? {
            if let Value::ServerError(error) = reply {
                return Err(Refusal::of(&error).into());
            }
        }
        Ok(())
    }

    /// Whether the peer has closed the connection, or the runtime that drives it has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Endpoint {
    /// Connects and logs in. Errors name the address.
    pub(super) async fn connect(&self) -> Result<Client, StoreError> {
        self.try_connect()
            .await
            .map_err(|error| error.at(&self.address))
    }

    async fn try_connect(&self) -> Result<Client, StoreError> {
        // A user with few rights may not use CLIENT SETINFO, and each refusal would be in the server's log.
        let mut login = self.login.clone().set_skip_set_lib_name();
        if let Some(provider) = &self.credentials {
            let credentials = provider.get().await?;
            login = credentials.apply_to(login);
        }
        // The client library says HELLO, but hides why AUTH was refused.
        let mut first = Pipeline::new();
        if !login.protocol().supports_resp3() {
            if let Some(password) = login.password() {
                first.cmd("AUTH").arg(login.username()).arg(password);
            }
            if login.db() != 0 {
                first.cmd("SELECT").arg(login.db());
            }
            login = RedisConnectionInfo::default().set_skip_set_lib_name();
        }
        let unreachable = |error| StoreError::new(StoreErrorKind::Unavailable, error);
        let stream = self.open().await.map_err(unreachable)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connected = MultiplexedConnection::new_with_config(&login, stream, config).await;
        let (connection, driver) = connected.map_err(|error| broken(&error))?;
        let driver = tokio::spawn(driver).abort_handle();
        let client = Client { connection, driver };
        client.send_all(&first).await?;
        Ok(client)
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        match &self.address {
            ConnectionAddr::Tcp(host, port) => Ok(Box::new(open_tcp(host, *port).await?)),
            #[cfg(feature = "redis-tls")]
            ConnectionAddr::TcpTls { host, port, .. } => {
                let tls = self.options.tls.as_ref();
                let tls = tls.ok_or_else(|| io::Error::other("TLS is not configured"))?;
                let stream = open_tcp(host, *port).await?;
                Ok(Box::new(tls.connect(host, stream).await?))
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => {
                Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
            }
            other => Err(io::Error::other(format!("{other} is not supported"))),
        }
    }

    /// The endpoint at an address that the server at this endpoint named. A host that it does not know
    /// is its own.
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) fn named(&self, named_host: &str, named_port: u16) -> Self {
        let mut endpoint = self.clone();
        let named_host = match &self.address {
            ConnectionAddr::Tcp(own, _) | ConnectionAddr::TcpTls { host: own, .. }
                if matches!(named_host, "" | "?") =>
            {
                own
            }
            _ => named_host,
        };
        let (new_host, new_port) = match &self.options.map_address {
            Some(map) => map(named_host, named_port),
            None => (named_host.to_owned(), named_port),
        };
        match &mut endpoint.address {
            ConnectionAddr::TcpTls { host, port, .. } => (*host, *port) = (new_host, new_port),
            other => *other = ConnectionAddr::Tcp(new_host, new_port),
        }
        endpoint
    }

    /// Runs a command that asks for the topology. Its reply may take as long as set, or else twice as
    /// long as connecting took, but at least [`SHORTEST_DISCOVERY`].
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) async fn discover<T: redis::FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, StoreError> {
        use tokio::time::{Instant, timeout, timeout_at};

        let began = Instant::now();
        let set = self.options.discovery_timeout;
        let too_slow = |_| unavailable("no answer in time").at(&self.address);
        let connecting = timeout(set.unwrap_or(super::connection::PATIENCE), self.connect());
        let mut client = connecting.await.map_err(too_slow)??;
        let end = match set {
            Some(set) => began + set,
            None => Instant::now() + SHORTEST_DISCOVERY.max(2 * began.elapsed()),
        };
        let reply = timeout_at(end, command.query_async(&mut client.connection)).await;
        let reply = reply.map_err(too_slow)?;
        reply.map_err(|error| broken(&error).at(&self.address))
    }
}

/// The shortest time that a node or sentinel has to reply, unless another is set.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
const SHORTEST_DISCOVERY: Duration = Duration::from_millis(250);

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PEER_TIMEOUT))?;
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))?;
    Ok(stream)
}
