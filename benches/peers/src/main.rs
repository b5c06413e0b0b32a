//! tollgate beside its peers, on the same work: one table, and whether what is required is met.
//!
//! ```console
//! $ cargo run --release -- [--rounds N] [--only check|middleware|redis|http] [--quick]
//! ```
//!
//! It needs `redis-server`, and a machine that does nothing else meanwhile.

mod allocations;
mod allowance;
mod arguments;
mod asking;
mod check;
mod http;
mod keyed;
mod latencies;
mod layers;
mod load;
mod machine;
mod middleware;
mod others;
mod redis_path;
mod redis_server;
mod report;
mod rounds;

use std::rc::Rc;

use allocations::Counting;
use arguments::{Arguments, Only, Pace};
use others::Ticks;
use redis_server::RedisServer;
use report::Report;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> anyhow::Result<()> {
    match Arguments::parse()? {
        Arguments::Compare { pace, only } => compare(pace, only),
        Arguments::Load { server, time } => load::run(server, time),
    }
}

fn compare(pace: Pace, only: Option<Only>) -> anyhow::Result<()> {
    let began = Ticks::now();
    let is_wanted = |part| only.is_none_or(|only| only == part);
    let mut parts = Vec::new();
    if is_wanted(Only::Check) {
        parts.push(check::compare(pace));
    }
    if is_wanted(Only::Middleware) {
        parts.push(middleware::compare(pace));
    }
    if is_wanted(Only::Redis) || is_wanted(Only::Http) {
        let redis = Rc::new(RedisServer::start()?);
        let mut most_of_redis = None;
        if is_wanted(Only::Redis) {
            let (part, most) = redis_path::compare(&redis, pace)?;
            parts.push(part);
            most_of_redis = Some(most);
        }
        if is_wanted(Only::Http) {
            parts.push(http::compare(&redis, most_of_redis, pace)?);
        }
    }
    let others = began.and_then(|began| began.taken_by_others());
    let preamble = machine::describe(pace, others);
    print!("{}", Report { preamble, parts });
    Ok(())
}
