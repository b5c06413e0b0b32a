//! A network between client and server that fails in the ways networks do.

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

/// Forwards connections to one server, until it is told otherwise, and ends when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Weather {
    Pass,
    Delay(Duration),
    Drop,
    Refuse,
}

struct Network {
    server: SocketAddr,
    weather: Mutex<Weather>,
    cuts: watch::Sender<usize>,
    halve: AtomicBool,
    connections: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("there is a free port");
        let network = Arc::new(Network {
            server,
            weather: Mutex::new(Weather::Pass),
            cuts: watch::Sender::new(0),
            halve: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        Self {
            address: listener.local_addr().expect("it is bound"),
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

    /// Forwards all bytes at once, as at first.
    pub(crate) fn pass(&self) {
        self.network.turn(Weather::Pass);
    }

    /// Holds bytes that long, in each direction, from when they come in.
    pub(crate) fn delay(&self, delay: Duration) {
        self.network.turn(Weather::Delay(delay));
    }

    /// Swallows all bytes, and the ends of connections, so that these are half open.
    ///
    /// A connection that has lost bytes never works again, as what follows them would be misread.
    pub(crate) fn drop_bytes(&self) {
        self.network.turn(Weather::Drop);
    }

    /// Closes new connections at once. Those that exist go on.
    pub(crate) fn refuse(&self) {
        self.network.turn(Weather::Refuse);
    }

    /// Closes all connections now.
    pub(crate) fn cut(&self) {
        self.network.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Forwards the first half of the next reply, and closes its connection.
    pub(crate) fn halve(&self) {
        self.network.halve.store(true, Ordering::SeqCst);
    }

    /// How many connections clients have made so far, the refused ones included.
    pub(crate) fn connections(&self) -> usize {
        self.network.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections' tasks end with it.
        self.task.abort();
    }
}

impl Network {
    fn turn(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap()
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok((client, _)) = listener.accept().await else {
                continue;
            };
            self.connections.fetch_add(1, Ordering::SeqCst);
            if self.weather() == Weather::Refuse {
                continue;
            }
            let (network, mut cuts) = (self.clone(), self.cuts.subscribe());
            connections.spawn(async move {
                tokio::select! {
                    // Not another byte after a cut.
                    biased;
                    _ = cuts.changed() => {}
                    _ = network.connect(client) => {}
                }
            });
        }
    }

    /// Forwards both directions, until one ends.
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

    async fn forward(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        lost: &AtomicBool,
        replies: bool,
    ) -> io::Result<()> {
        // Bytes are taken in while others are held, or delays would add up.
        let (held, mut due) = mpsc::unbounded_channel();
        let take = async {
            let mut buffer = vec![0; 65_536];
            loop {
                // Nothing is the connection's end.
                let length = from.read(&mut buffer).await.unwrap_or(0);
                let delay = match self.weather() {
                    Weather::Delay(delay) => delay,
                    _ => Duration::ZERO,
                };
                let bytes = buffer[..length].to_vec();
                if held.send((Instant::now() + delay, bytes)).is_err() || length == 0 {
                    return pending().await;
                }
            }
        };
        let give = async {
            while let Some((when, bytes)) = due.recv().await {
                // The timer would round up to a millisecond.
                if when > Instant::now() {
                    sleep_until(when).await;
                }
                if self.weather() == Weather::Drop {
                    lost.store(true, Ordering::SeqCst);
                }
                if lost.load(Ordering::SeqCst) {
                    continue;
                }
                if bytes.is_empty() {
                    break;
                }
                if replies && self.halve.swap(false, Ordering::SeqCst) {
                    return to.write_all(&bytes[..bytes.len() / 2]).await;
                }
                to.write_all(&bytes).await?;
            }
            Ok(())
        };
        tokio::select! {
            never = take => never,
            ended = give => ended,
        }
    }
}
