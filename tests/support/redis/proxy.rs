//! A TCP proxy that simulates a slow or broken network between client and server.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// A proxy in front of one server. It forwards all bytes at once until another mode is set, and
/// closes its connections when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Forward,
    Delay(Duration),
    DropBytes,
    RefuseConnections,
}

struct Network {
    server: SocketAddr,
    mode: Mutex<Mode>,
    /// Notifies all connections that they are to be closed.
    close_all: watch::Sender<()>,
    truncate_next_reply: AtomicBool,
    connections: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("there is a free port");
        let network = Arc::new(Network {
            server,
            mode: Mutex::new(Mode::Forward),
            close_all: watch::Sender::new(()),
            truncate_next_reply: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        Self {
            address: listener.local_addr().expect("the listener is bound"),
            network: network.clone(),
            task: tokio::spawn(network.serve(listener)),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards all bytes at once, which is the initial mode.
    pub(crate) fn forward(&self) {
        self.network.set_mode(Mode::Forward);
    }

    /// Forwards bytes with this delay in each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        self.network.set_mode(Mode::Delay(delay));
    }

    /// Drops all bytes and closes no connection: both ends see a connection that is half open.
    ///
    /// A connection that has lost bytes stays silent in every later mode, since the peer would
    /// misread what follows.
    pub(crate) fn drop_bytes(&self) {
        self.network.set_mode(Mode::DropBytes);
    }

    /// Closes new connections at once. Open connections are forwarded as before.
    pub(crate) fn refuse_connections(&self) {
        self.network.set_mode(Mode::RefuseConnections);
    }

    /// Closes all open connections.
    pub(crate) fn close_connections(&self) {
        self.network.close_all.send_replace(());
    }

    /// Forwards only the first half of the next reply, and closes its connection.
    pub(crate) fn truncate_next_reply(&self) {
        self.network
            .truncate_next_reply
            .store(true, Ordering::SeqCst);
    }

    /// Returns how many connections clients have opened so far, including refused ones.
    pub(crate) fn connections(&self) -> usize {
        self.network.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Aborts the tasks of the connections as well, which are in its `JoinSet`.
        self.task.abort();
    }
}

impl Network {
    fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok((client, _)) = listener.accept().await else {
                continue;
            };
            self.connections.fetch_add(1, Ordering::SeqCst);
            if self.mode() == Mode::RefuseConnections {
                continue;
            }
            let (network, mut close) = (self.clone(), self.close_all.subscribe());
            connections.spawn(async move {
                tokio::select! {
                    // Forward no byte after the connection is to be closed.
                    biased;
                    _ = close.changed() => {}
                    _ = network.connect(client) => {}
                }
            });
        }
    }

    /// Forwards both directions until one of them ends.
    async fn connect(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let lost = AtomicBool::new(false);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            ended = self.forward(from_client, to_server, &lost, false) => ended,
            ended = self.forward(from_server, to_client, &lost, true) => ended,
        }
    }

    /// Forwards one direction until it ends. `lost` is shared by both directions: it is set once
    /// bytes of the connection were dropped.
    async fn forward(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        lost: &AtomicBool,
        replies: bool,
    ) -> io::Result<()> {
        // Reading and writing are concurrent, or the delays of consecutive chunks would add up.
        let (sender, mut chunks) = mpsc::unbounded_channel();
        let read = async {
            let mut buffer = vec![0; 65_536];
            loop {
                // An empty chunk is the end of the connection.
                let length = from.read(&mut buffer).await.unwrap_or(0);
                let delay = match self.mode() {
                    Mode::Delay(delay) => delay,
                    _ => Duration::ZERO,
                };
                let bytes = buffer[..length].to_vec();
                if sender.send((Instant::now() + delay, bytes)).is_err() || length == 0 {
                    return pending().await;
                }
            }
        };
        let write = async {
            while let Some((due, bytes)) = chunks.recv().await {
                // The timer rounds up to a millisecond, so do not use it without a delay.
                if due > Instant::now() {
                    sleep_until(due).await;
                }
                if self.mode() == Mode::DropBytes {
                    lost.store(true, Ordering::SeqCst);
                }
                if lost.load(Ordering::SeqCst) {
                    continue;
                }
                if bytes.is_empty() {
                    break;
                }
                if replies && self.truncate_next_reply.swap(false, Ordering::SeqCst) {
                    return to.write_all(&bytes[..bytes.len() / 2]).await;
                }
                to.write_all(&bytes).await?;
            }
            Ok(())
        };
        tokio::select! {
            never = read => never,
            ended = write => ended,
        }
    }
}
