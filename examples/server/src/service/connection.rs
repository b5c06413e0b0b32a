//! Serves one connection until its client, its age or the server's end closes it.

use std::pin::pin;
use std::time::Duration;

use axum::http::Version;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_io_timeout::TimeoutStream;

use super::request::Bounded;
use super::shutdown::Stopping;
use crate::server_metrics;

/// How long a client of HTTP/1 may be silent between two requests, the head of the second one
/// included. Load balancers keep idle connections for 60 s or so, and closing one before they do may
/// cost a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a client may read nothing of its responses, in deadlines of a request.
const SLOWEST_READER: u32 = 6;

/// How often a client of HTTP/2 is pinged, and how long its answer may take.
const PING: Duration = Duration::from_secs(20);

/// How long a connection's requests may go on once its client was asked to reconnect.
const GRACE: Duration = Duration::from_secs(30);

/// How long the first request of a connection may take to arrive once the server stops. The client
/// has connected, so its request is likely to be on its way.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// Requests that one HTTP/2 connection may have in flight. Clients may begin as many before they know
/// the server's limit (RFC 9113, section 6.5.2, recommends at least 100). Envoy opens further
/// connections where one does not suffice, and others wait.
const MAX_STREAMS: u32 = 100;

/// The longest head of a request, in bytes. A JSON web token can take a good part of it. HTTP/2 counts
/// 32 bytes more for each header (RFC 9113, section 6.5.2).
const MAX_HEAD: usize = 8 * 1024;

/// Bytes that an HTTP/2 client may send on a stream, and half of those on a connection, before the
/// server has read them.
const WINDOW: u32 = 64 * 1024;

/// Bytes of the response that an HTTP/2 stream may buffer while its client does not read.
const SEND_BUFFER: usize = 16 * 1024;

/// The deadlines of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// For the first request's head, and for each request from its head to its answer.
    pub(super) request: Duration,
    /// For an HTTP/2 connection, so that clients spread over new replicas.
    pub(super) age: Duration,
}

pub(super) fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// Serves a connection to its end. Dropping the future closes the connection.
pub(super) async fn serve(
    builder: Builder<TokioExecutor>,
    stream: TcpStream,
    service: Bounded,
    deadlines: Deadlines,
    stopping: &Stopping,
) {
    let activity = service.activity.clone();
    let accepted = activity.accepted();
    // Varied, so that connections that began together do not all end together.
    let age = deadlines.age.mul_f64(0.9 + 0.2 * fastrand::f64());
    let mut stream = Box::pin(TimeoutStream::new(stream));
    let slowest_reader = deadlines.request * SLOWEST_READER;
    stream
        .as_mut()
        .set_write_timeout_pinned(Some(slowest_reader));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut closed = pin!(stopping.closed());
    // When to ask the client to reconnect elsewhere, and whether that has been done.
    let (mut leave, mut has_left) = (None::<Instant>, false);
    let mut closed_since = None;
    loop {
        let now = Instant::now();
        let version = activity.version();
        // When to close the connection whatever its client does.
        let end = match version {
            None => Some(accepted + deadlines.request),
            // Streams without an end, such as health watches, must not delay the end of the server.
            Some(Version::HTTP_2) => match (closed_since, activity.quiet_since()) {
                (Some(closed), Some(quiet)) => Some(quiet.max(closed) + LAST_CHANCE),
                _ => Some(accepted + age + GRACE),
            },
            Some(_) => None,
        };
        if end.is_some_and(|end| end <= now) {
            server_metrics::connection_ended("deadline");
            return;
        }
        if version == Some(Version::HTTP_2) {
            leave = leave.or(Some(accepted + age));
        }
        if !has_left && leave.is_some_and(|leave| leave <= now) {
            connection.as_mut().graceful_shutdown();
            has_left = true;
        }
        // By then a request may have arrived or ended, and with it another end may apply.
        let mut wake = now + closed_since.map_or(deadlines.request, |_| LAST_CHANCE);
        wake = wake.min(end.unwrap_or(wake));
        wake = wake.min(leave.filter(|_| !has_left).unwrap_or(wake));
        tokio::select! {
            // An error is the client's: it went away, or sent something that is not HTTP.
            _ = connection.as_mut() => return,
            () = activity.evicted() => return,
            () = &mut closed, if closed_since.is_none() => {
                let now = Instant::now();
                closed_since = Some(now);
                let chance = match activity.version() {
                    None => LAST_CHANCE,
                    Some(_) => Duration::ZERO,
                };
                let soon = now + chance;
                leave = Some(leave.map_or(soon, |leave| leave.min(soon)));
            }
            () = sleep_until(wake) => {}
        }
    }
}
