//! How many instructions each step of the hot path takes, which does not drift with the machine's
//! load.
//!
//! ```sh
//! cargo bench --bench instructions
//! ```
//!
//! Needs valgrind, under which it runs itself: each step so many times and then twice as many, so
//! that what it takes to begin and to end cancels out.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::process::Command;
use std::{env, io};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Empty;
use tollgate::{
    Check, Identity, Limiter, Limits, LocalStore, PeerAddr, Quota, RateLimitLayer, Store,
};
use tower::{Layer, Service, service_fn};

/// One decision in seventeen is sampled for a histogram.
const TIMES: u64 = 17 * 100;

/// Tells a run under valgrind from one that starts valgrind.
const TAKE: &str = "--take";

const PEER: [u8; 4] = [203, 0, 113, 7];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    // As valgrind runs it.
    if let [mode, step, limits, times] = &arguments[..]
        && mode == TAKE
    {
        take(step, &limits.parse()?, times.parse()?);
        return Ok(());
    }
    let bare = instructions("bare", "1/s")?;
    for (kind, limits) in [("allowed", "1000000000/s"), ("denied", "1/d")] {
        for (step, above) in [("store", 0), ("limiter", 0), ("middleware", bare)] {
            let each = instructions(step, limits)? - above;
            println!("{step:<10}  {kind:<7}  {each:>5} instructions");
        }
    }
    Ok(())
}

/// What a step takes each time.
fn instructions(step: &str, limits: &str) -> Result<i64, Box<dyn Error>> {
    let [once, twice] = [TIMES, 2 * TIMES].map(|times| collected(step, limits, times));
    Ok((twice? - once?) / TIMES as i64)
}

/// What the program takes that makes a step so many times.
fn collected(step: &str, limits: &str, times: u64) -> Result<i64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // What it takes to begin differs: the clock is tried out.
        .arg("--toggle-collect=instructions::repeat*")
        .arg(env::current_exe()?)
        .args([TAKE, step, limits, &times.to_string()])
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "needs valgrind: `apt-get install valgrind`, or your \
                                        system's package of that name"
                .into(),
            _ => Box::<dyn Error>::from(error),
        })?;
    // valgrind ends with `==1234== Collected : 5678`.
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.ok_or_else(|| format!("valgrind failed:\n{said}"))?;
    Ok(collected.trim().parse()?)
}

/// Takes a step so many times.
fn take(step: &str, quota: &Quota, times: u64) {
    let (identity, limits) = (Identity::ip(PEER.into()), Limits::from(*quota));
    let check = Check::new(&identity, &limits);
    let store = LocalStore::new();
    match step {
        "store" => repeat(times, || store.check(black_box(&check))),
        "limiter" => {
            let limiter = Limiter::from(store);
            repeat(times, || limiter.check(black_box(&check)));
        }
        "middleware" => {
            let mut service = RateLimitLayer::new(limits, store).layer(service_fn(bare));
            repeat(times, || service.call(request()).now_or_never());
        }
        _ => repeat(times, || service_fn(bare).call(request()).now_or_never()),
    }
}

#[inline(never)]
fn repeat<T>(times: u64, step: impl FnMut() -> T) {
    std::iter::repeat_with(step)
        .take(times as usize)
        .for_each(|done| {
            black_box(done);
        });
}

fn request() -> Request<()> {
    let mut request = Request::default();
    let peer = SocketAddr::from((PEER, 443));
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

fn bare(_: Request<()>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Empty::new())))
}
