//! The clients of a server: as many connections as there are addresses, each with one request at a
//! time. It is a process of its own, and does no more than it has to, since the server is what is
//! to be measured.

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

use crate::latencies::{Latencies, Throughput};

const CONNECTIONS: u8 = 64;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";

/// Requests of so long are not counted.
const WARM_UP: Duration = Duration::from_millis(200);

/// Has another process be the clients.
pub(crate) fn put_on(server: SocketAddr, time: Duration) -> anyhow::Result<Throughput> {
    let output = Command::new(env::current_exe()?)
        .args(["--load", &server.to_string()])
        .args(["--milliseconds", &time.as_millis().to_string()])
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the clients: {error}");
    let said = str::from_utf8(&output.stdout)?;
    let mut figures = said.split_whitespace().map(str::parse);
    let mut figure = || {
        figures
            .next()
            .context("the clients say less than they should")
    };
    Ok(Throughput {
        per_second: figure()??,
        median: figure()??,
        p99: figure()??,
    })
}

/// Is the clients, and prints what came of it.
pub(crate) fn run(server: SocketAddr, time: Duration) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let throughput = LocalSet::new().block_on(&runtime, async {
        let mut clients = Vec::new();
        for client in 1..=CONNECTIONS {
            clients.push(connect(server, client).await?);
        }
        let latencies = Rc::new(Latencies::new());
        let start = Instant::now() + WARM_UP;
        let end = start + time;
        let clients: Vec<_> = clients
            .into_iter()
            .map(|client| tokio::task::spawn_local(ask_on(client, start, end, latencies.clone())))
            .collect();
        for client in clients {
            client.await??;
        }
        anyhow::Ok(latencies.over(time))
    })?;
    let Throughput {
        per_second,
        median,
        p99,
    } = throughput;
    println!("{per_second} {median} {p99}");
    Ok(())
}

/// Connects from an address of its own, so that the server meets as many clients.
async fn connect(server: SocketAddr, client: u8) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 1 + client), 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask_on(
    mut stream: TcpStream,
    start: Instant,
    end: Instant,
    latencies: Rc<Latencies>,
) -> anyhow::Result<()> {
    let mut buffer = [0; 4_096];
    let mut asked = Instant::now();
    while asked < end {
        stream.write_all(REQUEST).await?;
        let mut length = 0;
        while !is_whole(&buffer[..length])? {
            let read = stream.read(&mut buffer[length..]).await?;
            ensure!(read > 0, "the server has closed a connection");
            length += read;
        }
        let answered = Instant::now();
        if (start..end).contains(&answered) {
            latencies.note(answered - asked);
        }
        asked = answered;
    }
    Ok(())
}

/// Whether what was read is a response, of which there is one at a time.
fn is_whole(read: &[u8]) -> anyhow::Result<bool> {
    let Some(head) = memmem::find(read, b"\r\n\r\n") else {
        return Ok(false);
    };
    ensure!(
        read.starts_with(b"HTTP/1.1 200 "),
        "a request was not allowed"
    );
    let name = b"\r\ncontent-length: ";
    let value = memmem::find(&read[..head], name).context("a response has no length")? + name.len();
    let digits = read[value..].split(|byte| !byte.is_ascii_digit()).next();
    let length: usize = str::from_utf8(digits.unwrap_or_default())?.parse()?;
    Ok(read.len() == head + 4 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_whole_with_its_body() {
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: now\r\n\r\nhello";
        let whole = |length| is_whole(&response[..length]).expect("it is a good response");
        assert!(whole(response.len()));
        assert!((0..response.len()).all(|length| !whole(length)));
        assert!(is_whole(b"HTTP/1.1 429 Too Many Requests\r\n\r\n").is_err());
    }
}
