//! Accepts connections.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connection::{self, Deadlines};
use super::connection_table::{ConnectionTable, LOG_INTERVAL};
use super::request::ConnectionService;
use super::shutdown::Shutdown;

/// The time until `accept` is retried after an error, for instance without free file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The state that all listeners share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) connections: ConnectionTable,
    pub(super) deadlines: Deadlines,
    pub(super) shutdown: Shutdown,
}

/// A socket that accepts connections, and the routes that it serves.
pub(super) struct Listener {
    name: &'static str,
    address: SocketAddr,
    listener: TcpListener,
    handler: ConnectionHandler,
}

struct ConnectionHandler {
    router: Router,
    http: Builder<TokioExecutor>,
    shared: Shared,
    tasks: TaskTracker,
}

impl Listener {
    pub(super) async fn open(
        name: &'static str,
        address: SocketAddr,
        router: Router,
        shared: &Shared,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let stop = match error.kind() {
                io::ErrorKind::AddrInUse => "stop the other program or ",
                _ => "",
            };
            anyhow!("cannot listen on {address} for {name}: {error}; {stop}change `listen.{name}`")
        })?;
        Ok(Self {
            name,
            address: listener.local_addr()?,
            listener,
            handler: ConnectionHandler {
                router,
                http: connection::http_builder(),
                shared: shared.clone(),
                tasks: TaskTracker::new(),
            },
        })
    }

    /// Serves until the shutdown, and until every connection has ended.
    pub(super) async fn serve(self) {
        let Self {
            listener, handler, ..
        } = self;
        let closed = handler.shared.shutdown.closed();
        tokio::pin!(closed);
        let mut warned: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = &mut closed => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => handler.handle(stream, peer).await,
                    Err(error) if is_connection_error(&error) => {}
                    Err(error) => {
                        if warned.is_none_or(|warned| warned.elapsed() >= LOG_INTERVAL) {
                            tracing::warn!(%error, "cannot accept connections");
                            warned = Some(Instant::now());
                        }
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
        if let Err(error) = handler.handle_backlog(listener).await {
            tracing::warn!(%error, "cannot accept the last connections before the shutdown");
        }
        handler.tasks.close();
        handler.tasks.wait().await;
    }
}

/// Writes the name and the address, such as `http 127.0.0.1:8080`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)
    }
}

impl ConnectionHandler {
    async fn handle(&self, stream: TcpStream, peer: SocketAddr) {
        let Shared {
            connections,
            deadlines,
            shutdown,
        } = &self.shared;
        let Some(permit) = connections.admit(peer.ip()).await else {
            return;
        };
        // Responses are small, and clients wait for them.
        let _ = stream.set_nodelay(true);
        let service = ConnectionService {
            router: self.router.clone(),
            activity: permit.activity.clone(),
            deadline: deadlines.request,
            shutdown: shutdown.clone(),
        };
        let (http, deadlines, shutdown) = (self.http.clone(), *deadlines, shutdown.clone());
        self.tasks.spawn(async move {
            connection::serve(http, stream, service, deadlines, &shutdown).await;
            drop(permit);
        });
    }

    /// Serves the connections in the backlog of the kernel, which would be reset when the listener
    /// is closed. Tokio's `accept` may not see them before it polls the kernel again.
    async fn handle_backlog(&self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true)?;
                    self.handle(TcpStream::from_std(stream)?, peer).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_connection_error(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
