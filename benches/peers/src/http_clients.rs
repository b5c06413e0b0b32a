//! The clients of the HTTP part: 64 connections from different addresses, each with one request at
//! a time. They run in a process of their own and do as little as possible, because the server is
//! measured and not the clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{env, str};

use anyhow::{Context, ensure};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime;
use tokio::task::LocalSet;

use crate::histogram::{Histogram, LoadResult};

const CONNECTIONS: u8 = 64;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";

/// The time at the start in which requests are not counted.
const WARM_UP: Duration = Duration::from_millis(200);

/// Runs the clients in a child process, and returns their result.
pub(crate) fn measure(server: SocketAddr, time: Duration) -> anyhow::Result<LoadResult> {
    let output = Command::new(env::current_exe()?)
        .args(["--send-requests-to", &server.to_string()])
        .args(["--milliseconds", &time.as_millis().to_string()])
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the clients failed: {error}");
    let mut figures = str::from_utf8(&output.stdout)?
        .split_whitespace()
        .map(str::parse);
    let mut figure = || {
        figures
            .next()
            .context("the clients printed fewer than three figures")
    };
    Ok(LoadResult {
        per_second: figure()??,
        median: figure()??,
        p99: figure()??,
    })
}

/// Runs the clients, and prints their result as three figures.
pub(crate) fn run(server: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let result = LocalSet::new().block_on(&runtime, async {
        let mut clients = Vec::new();
        for client in 1..=CONNECTIONS {
            clients.push(connect(server, client).await?);
        }
        let histogram = Rc::new(Histogram::new());
        let start = Instant::now() + WARM_UP;
        let end = start + time;
        let clients: Vec<_> = clients
            .into_iter()
            .map(|client| {
                tokio::task::spawn_local(send_requests(client, start, end, histogram.clone()))
            })
            .collect();
        for client in clients {
            client.await??;
        }
        anyhow::Ok(histogram.load_result(time))
    })?;
    let LoadResult {
        per_second,
        median,
        p99,
    } = result;
    println!("{per_second} {median} {p99}");
    Ok(())
}

/// Connects from a loopback address of its own, so that each connection is another client.
async fn connect(server: SocketAddr, client: u8) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 1 + client), 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends one request after another until `end`, and records the latencies from `start` on.
async fn send_requests(
    mut stream: TcpStream,
    start: Instant,
    end: Instant,
    histogram: Rc<Histogram>,
) -> anyhow::Result<()> {
    let mut buffer = [0; 4_096];
    let mut sent = Instant::now();
    while sent < end {
        stream.write_all(REQUEST).await?;
        let mut length = 0;
        while !is_complete(&buffer[..length])? {
            let read = stream.read(&mut buffer[length..]).await?;
            ensure!(read > 0, "the server has closed a connection");
            length += read;
        }
        let received = Instant::now();
        if (start..end).contains(&received) {
            histogram.record(received - sent);
        }
        sent = received;
    }
    Ok(())
}

/// Returns whether the bytes are a complete response. Fails if the response is not 200.
fn is_complete(read: &[u8]) -> anyhow::Result<bool> {
    let Some(head) = memmem::find(read, b"\r\n\r\n") else {
        return Ok(false);
    };
    ensure!(
        read.starts_with(b"HTTP/1.1 200 "),
        "the response to a request is not 200: {}",
        String::from_utf8_lossy(&read[..head])
    );
    let name = b"\r\ncontent-length: ";
    let value = memmem::find(&read[..head], name).context("a response has no `content-length`")?
        + name.len();
    let digits = read[value..].split(|byte| !byte.is_ascii_digit()).next();
    let length: usize = str::from_utf8(digits.unwrap_or_default())?.parse()?;
    Ok(read.len() == head + 4 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_complete_with_its_last_byte() {
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: now\r\n\r\nhello";
        let complete = |length| is_complete(&response[..length]).expect("a valid response");
        assert!(complete(response.len()));
        assert!((0..response.len()).all(|length| !complete(length)));
        assert!(is_complete(b"HTTP/1.1 429 Too Many Requests\r\n\r\n").is_err());
    }
}
