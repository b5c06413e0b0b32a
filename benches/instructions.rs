//! Counts the instructions of a check and of a request through the middleware. Unlike times, the
//! counts do not depend on the load of the machine.
//!
//! ```sh
//! cargo bench --bench instructions
//! ```
//!
//! | line | instructions of |
//! |---|---|
//! | `store` | a check by the `LocalStore`, up to its verdict |
//! | `limiter` | a check by a `Limiter` on that store, up to its decision |
//! | `middleware` | a request through a `RateLimitLayer`, minus those of the same request without it |
//!
//! Needs valgrind. The program runs itself under valgrind, first with `TIMES` repetitions and then
//! with twice as many. The difference excludes the setup.

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

/// The number of repetitions: a multiple of 17, since one decision in 17 is sampled for a
/// histogram.
const TIMES: u64 = 17 * 100;

/// The argument that distinguishes a run under valgrind from the run that starts valgrind.
const UNDER_VALGRIND: &str = "--under-valgrind";

const PEER: [u8; 4] = [203, 0, 113, 7];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [mode, step, quota, times] = &arguments[..]
        && mode == UNDER_VALGRIND
    {
        run_step(step, &quota.parse()?, times.parse()?);
        return Ok(());
    }
    let without_middleware = instructions("bare", "1/s")?;
    for (kind, quota) in [("allowed", "1000000000/s"), ("denied", "1/d")] {
        for (step, baseline) in [
            ("store", 0),
            ("limiter", 0),
            ("middleware", without_middleware),
        ] {
            let count = instructions(step, quota)? - baseline;
            println!("{step:<10}  {kind:<7}  {count:>5} instructions");
        }
    }
    Ok(())
}

/// Returns the number of instructions of one execution of a step.
fn instructions(step: &str, quota: &str) -> Result<i64, Box<dyn Error>> {
    let [once, twice] = [TIMES, 2 * TIMES].map(|times| count_under_valgrind(step, quota, times));
    Ok((twice? - once?) / TIMES as i64)
}

/// Runs this program under valgrind, and returns the number of instructions within [`repeat`].
fn count_under_valgrind(step: &str, quota: &str, times: u64) -> Result<i64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // The instructions of the setup vary, because it calibrates the clock.
        .arg("--toggle-collect=instructions::repeat*")
        .arg(env::current_exe()?)
        .args([UNDER_VALGRIND, step, quota, &times.to_string()])
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "needs valgrind: `apt-get install valgrind`, or your \
                                        system's package of that name"
                .into(),
            _ => Box::<dyn Error>::from(error),
        })?;
    // The output of valgrind ends with `==1234== Collected : 5678`.
    let log = String::from_utf8_lossy(&output.stderr);
    let mut lines = log.lines();
    let collected = lines.find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.ok_or_else(|| format!("valgrind failed:\n{log}"))?;
    Ok(collected.trim().parse()?)
}

/// Repeats a step.
fn run_step(step: &str, quota: &Quota, times: u64) {
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

/// Repeats a step. valgrind counts only within this function, by its name.
#[inline(never)]
fn repeat<T>(times: u64, step: impl FnMut() -> T) {
    std::iter::repeat_with(step)
        .take(times as usize)
        .for_each(|result| {
            black_box(result);
        });
}

/// Returns a request from one peer address.
fn request() -> Request<()> {
    let mut request = Request::default();
    let peer = SocketAddr::from((PEER, 443));
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

/// The inner service, which does nothing.
fn bare(_: Request<()>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Empty::new())))
}
