//! Connects to a server and logs in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{AsyncConnectionConfig, ConnectionAddr, Pipeline, RedisConnectionInfo, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::credentials::CredentialsProvider;
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
use super::error::unavailable;
use super::error::{CallError, connection_error};
#[cfg(feature = "redis-tls")]
use super::tls::Tls;
use crate::store::{StoreError, StoreErrorKind};

/// The timeout for connecting, the login, and the first call of the script.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The kernel closes a connection if the peer does not acknowledge data for this long, and sends the
/// first keep-alive probe after this long without data.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest default timeout for the reply to a topology query.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
const MIN_DISCOVERY_TIMEOUT: Duration = Duration::from_millis(250);

/// Translates an address that a node or sentinel returned.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
pub(super) type MapAddress = Arc<dyn Fn(&str, u16) -> (String, u16) + Send + Sync>;

/// The address of a server, and the login.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) address: ConnectionAddr,
    /// User, password, database and protocol.
    pub(super) login: RedisConnectionInfo,
    /// Provides user and password in place of those of `login`.
    pub(super) credentials: Option<CredentialsProvider>,
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
    /// The timeout of a topology query, including the time to connect.
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
    /// Sends commands, and fails if one of the replies is an error.
    async fn send_all(&self, commands: &Pipeline) -> Result<(), StoreError> {
        if commands.is_empty() {
            return Ok(());
        }
        let mut connection = self.connection.clone();
        let replies = connection.send_packed_commands(commands, 0, commands.len());
        for reply in replies.await.map_err(|error| connection_error(&error))? {
            if let Value::ServerError(error) = reply {
                return Err(CallError::from_reply(&error).into());
            }
        }
        Ok(())
    }

    /// Returns whether the peer closed the connection, or the runtime of the driver shut down.
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
    #[cfg(all(test, any(feature = "redis-cluster", feature = "test-util")))]
    pub(super) fn at_url(url: &str) -> Self {
        let info = redis::IntoConnectionInfo::into_connection_info(url).expect("a URL");
        Self {
            address: info.addr().clone(),
            login: info.redis_settings().clone(),
            credentials: None,
            options: Arc::default(),
        }
    }

    /// Connects and logs in. Errors contain the address.
    pub(super) async fn connect(&self) -> Result<Client, StoreError> {
        self.try_connect()
            .await
            .map_err(|error| error.at(&self.address))
    }

    async fn try_connect(&self) -> Result<Client, StoreError> {
        // A user with the least rights may not use CLIENT SETINFO, and the server logs each denial.
        let mut login = self.login.clone().set_skip_set_lib_name();
        if let Some(provider) = &self.credentials {
            let credentials = provider.get().await?;
            login = credentials.apply_to(login);
        }
        // For RESP2, AUTH and SELECT are sent here: the client library hides why AUTH failed. It sends
        // HELLO for RESP3 itself.
        let mut login_commands = Pipeline::new();
        if !login.protocol().supports_resp3() {
            if let Some(password) = login.password() {
                login_commands
                    .cmd("AUTH")
                    .arg(login.username())
                    .arg(password);
            }
            if login.db() != 0 {
                login_commands.cmd("SELECT").arg(login.db());
            }
            login = RedisConnectionInfo::default().set_skip_set_lib_name();
        }
        let unreachable = |error| StoreError::new(StoreErrorKind::Unavailable, error);
        let stream = self.open_stream().await.map_err(unreachable)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connected = MultiplexedConnection::new_with_config(&login, stream, config).await;
        let (connection, driver) = connected.map_err(|error| connection_error(&error))?;
        let driver = tokio::spawn(driver).abort_handle();
        let client = Client { connection, driver };
        client.send_all(&login_commands).await?;
        Ok(client)
    }

    async fn open_stream(&self) -> io::Result<Box<dyn Stream>> {
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

    /// Returns the endpoint at an address that the server at this endpoint returned. An empty or unknown (`?`)
    /// host stands for this server's own.
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) fn resolve(&self, returned_host: &str, port: u16) -> Self {
        let mut endpoint = self.clone();
        let host = match &self.address {
            ConnectionAddr::Tcp(own, _) | ConnectionAddr::TcpTls { host: own, .. }
                if matches!(returned_host, "" | "?") =>
            {
                own
            }
            _ => returned_host,
        };
        let (new_host, new_port) = match &self.options.map_address {
            Some(map) => map(host, port),
            None => (host.to_owned(), port),
        };
        match &mut endpoint.address {
            ConnectionAddr::TcpTls { host, port, .. } => (*host, *port) = (new_host, new_port),
            other => *other = ConnectionAddr::Tcp(new_host, new_port),
        }
        endpoint
    }

    /// Connects and sends a topology query. The default timeout of the reply is twice the duration of
    /// connecting, at least [`MIN_DISCOVERY_TIMEOUT`].
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) async fn query_topology<T: redis::FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, StoreError> {
        use tokio::time::{Instant, timeout, timeout_at};

        let started_at = Instant::now();
        let configured = self.options.discovery_timeout;
        let timed_out = |_| unavailable("no reply within the discovery timeout").at(&self.address);
        let connecting = timeout(configured.unwrap_or(CONNECT_TIMEOUT), self.connect());
        let mut client = connecting.await.map_err(timed_out)??;
        let deadline = match configured {
            Some(configured) => started_at + configured,
            None => Instant::now() + MIN_DISCOVERY_TIMEOUT.max(2 * started_at.elapsed()),
        };
        let reply = timeout_at(deadline, command.query_async(&mut client.connection)).await;
        let reply = reply.map_err(timed_out)?;
        reply.map_err(|error| connection_error(&error).at(&self.address))
    }
}

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PEER_TIMEOUT))?;
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))?;
    Ok(stream)
}
