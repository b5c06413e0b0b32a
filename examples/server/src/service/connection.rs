//! Serves one connection, until its client closes it or a timeout, its age or the shutdown ends it.

use std::pin::pin;
use std::time::Duration;

use axum::http::Version;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_io_timeout::TimeoutStream;

use super::request::ConnectionService;
use super::shutdown::Shutdown;
use crate::server_metrics;

/// The timeout of an HTTP/1 client between two requests, including the head of the second request.
/// It is longer than the 60 s of most load balancers: to close a connection before they do may lose
/// a request.
const HTTP1_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The timeout of a client that does not read its responses, as a multiple of the request deadline.
const WRITE_TIMEOUT_DEADLINES: u32 = 6;

/// The interval of HTTP/2 pings, and the timeout of the reply.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// The time for requests to finish after the client was asked to reconnect.
const RECONNECT_GRACE: Duration = Duration::from_secs(30);

/// The time for a request to arrive after the listeners are closed. The client of a new connection
/// has probably sent its first request already.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// The maximum number of requests in flight on an HTTP/2 connection. RFC 9113, section 6.5.2,
/// recommends at least 100, and clients may send as many before they know the server's maximum.
/// With more requests, Envoy opens another connection, and other clients queue them.
const MAX_STREAMS: u32 = 100;

/// The maximum size of a request head, in bytes, with room for a JSON web token. HTTP/2 adds 32
/// bytes for each header (RFC 9113, section 6.5.2).
const MAX_HEAD: usize = 8 * 1024;

/// The flow-control window of an HTTP/2 stream, in bytes. A connection has twice as much.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The maximum of response bytes that an HTTP/2 stream buffers for a client that does not read.
const SEND_BUFFER: usize = 16 * 1024;

/// The deadlines of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// For the head of the first request, and for each request from its head to its response.
    pub(super) request: Duration,
    /// For an HTTP/2 connection, so that clients reconnect to new replicas.
    pub(super) age: Duration,
}

pub(super) fn http_builder() -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP1_IDLE_TIMEOUT)
        .max_buf_size(MAX_HEAD);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    http
}

/// Serves a connection to its end. Dropping the future closes the connection.
pub(super) async fn serve(
    http: Builder<TokioExecutor>,
    stream: TcpStream,
    service: ConnectionService,
    deadlines: Deadlines,
    shutdown: &Shutdown,
) {
    let activity = service.activity.clone();
    let accepted = activity.accepted();
    // Random, so that connections that began at the same time do not all end at the same time.
    let age = deadlines.age.mul_f64(0.9 + 0.2 * fastrand::f64());
    let mut stream = Box::pin(TimeoutStream::new(stream));
    let write_timeout = deadlines.request * WRITE_TIMEOUT_DEADLINES;
    stream
        .as_mut()
        .set_write_timeout_pinned(Some(write_timeout));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut closed = pin!(shutdown.closed());
    // When to ask the client to reconnect (by GOAWAY in HTTP/2), and whether the server has asked.
    let (mut goaway_at, mut goaway_sent) = (None::<Instant>, false);
    let mut shutdown_since = None;
    loop {
        let now = Instant::now();
        let version = activity.version();
        // When to close the connection, even with requests in flight.
        let close_at = match version {
            None => Some(accepted + deadlines.request),
            // Endless streams, such as health watches, must not delay the shutdown.
            Some(Version::HTTP_2) => match (shutdown_since, activity.idle_since()) {
                (Some(closed), Some(idle)) => Some(idle.max(closed) + SHUTDOWN_GRACE),
                _ => Some(accepted + age + RECONNECT_GRACE),
            },
            Some(_) => None,
        };
        if close_at.is_some_and(|close_at| close_at <= now) {
            server_metrics::record_connection_ended("deadline");
            return;
        }
        if version == Some(Version::HTTP_2) {
            goaway_at = goaway_at.or(Some(accepted + age));
        }
        if !goaway_sent && goaway_at.is_some_and(|goaway_at| goaway_at <= now) {
            connection.as_mut().graceful_shutdown();
            goaway_sent = true;
        }
        // `close_at` changes when a request arrives or ends, so it is computed again soon enough.
        let mut wake = now + shutdown_since.map_or(deadlines.request, |_| SHUTDOWN_GRACE);
        wake = wake.min(close_at.unwrap_or(wake));
        wake = wake.min(goaway_at.filter(|_| !goaway_sent).unwrap_or(wake));
        tokio::select! {
            // Errors are not logged: the client has disconnected, or does not speak HTTP.
            _ = connection.as_mut() => return,
            () = activity.evicted() => return,
            () = &mut closed, if shutdown_since.is_none() => {
                let now = Instant::now();
                shutdown_since = Some(now);
                let grace = match activity.version() {
                    None => SHUTDOWN_GRACE,
                    Some(_) => Duration::ZERO,
                };
                let goaway = now + grace;
                goaway_at = Some(goaway_at.map_or(goaway, |goaway_at| goaway_at.min(goaway)));
            }
            () = sleep_until(wake) => {}
        }
    }
}
