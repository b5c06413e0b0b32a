//! Listens for connections and serves them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connection::{self, Deadlines};
use super::connection_table::{Connections, LOG_INTERVAL};
use super::request::Bounded;
use super::shutdown::Stopping;

/// How long to wait after `accept` failed, for instance for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// The state that all listeners share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) connections: Connections,
    pub(super) deadlines: Deadlines,
    pub(super) stopping: Stopping,
}

/// A listener and the routes that it serves.
pub(super) struct Front {
    name: &'static str,
    address: SocketAddr,
    listener: TcpListener,
    server: Server,
}

struct Server {
    router: Router,
    builder: Builder<TokioExecutor>,
    shared: Shared,
    tasks: TaskTracker,
}

impl Front {
    pub(super) async fn open(
        name: &'static str,
        address: SocketAddr,
        router: Router,
        shared: &Shared,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for {name}"))?;
        Ok(Self {
            name,
            address: listener.local_addr()?,
            listener,
            server: Server {
                router,
                builder: connection::builder(),
                shared: shared.clone(),
                tasks: TaskTracker::new(),
            },
        })
    }

    /// Serves until the server stops and every connection has ended.
    pub(super) async fn serve(self) {
        let Self {
            listener, server, ..
        } = self;
        let closed = server.shared.stopping.closed();
        tokio::pin!(closed);
        let mut warned: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = &mut closed => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => server.take(stream, peer).await,
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        if warned.is_none_or(|warned| warned.elapsed() >= LOG_INTERVAL) {
                            tracing::warn!(%error, "cannot accept connections");
                            warned = Some(Instant::now());
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
        if let Err(error) = server.take_backlog(listener).await {
            tracing::warn!(%error, "the last connections could not be accepted");
        }
        server.tasks.close();
        server.tasks.wait().await;
    }
}

/// For example `http 127.0.0.1:8080`.
impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)
    }
}

impl Server {
    async fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let Shared {
            connections,
            deadlines,
            stopping,
        } = &self.shared;
        let Some(place) = connections.admit(peer.ip()).await else {
            return;
        };
        // Answers are small, and clients wait for them.
        let _ = stream.set_nodelay(true);
        let service = Bounded {
            router: self.router.clone(),
            activity: place.activity.clone(),
            deadline: deadlines.request,
            stopping: stopping.clone(),
        };
        let (builder, deadlines, stopping) = (self.builder.clone(), *deadlines, stopping.clone());
        self.tasks.spawn(async move {
            connection::serve(builder, stream, service, deadlines, &stopping).await;
            drop(place);
        });
    }

    /// Takes the connections that the kernel has accepted, since closing the listener resets them.
    /// Tokio's `accept` may not see them before its next poll of the kernel's events.
    async fn take_backlog(&self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true)?;
                    self.take(TcpStream::from_std(stream)?, peer).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
