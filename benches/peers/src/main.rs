//! Compares tollgate with other rate limiters on the same work. Prints one table, and whether
//! tollgate meets its requirements.
//!
//! ```console
//! $ cargo run --release -- [--rounds N] [--only check|middleware|redis|http] [--quick]
//! ```
//!
//! Needs `redis-server`, and a machine that does nothing else at the same time.

mod allocations;
mod arguments;
mod check;
mod contest;
mod cpu_time;
mod histogram;
mod http;
mod http_clients;
mod layers;
mod local_limiters;
mod machine;
mod middleware;
mod redis_limiters;
mod redis_path;
mod redis_server;
mod report;
mod token_bucket;

use std::rc::Rc;

use allocations::CountingAllocator;
use arguments::{Arguments, PartName, Schedule};
use cpu_time::CpuTime;
use redis_server::RedisServer;
use report::Report;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> anyhow::Result<()> {
    match Arguments::parse()? {
        Arguments::Compare { schedule, only } => compare(schedule, only),
        Arguments::SendRequests { server, time } => http_clients::run(server, time),
    }
}

fn compare(schedule: Schedule, only: Option<PartName>) -> anyhow::Result<()> {
    let start = CpuTime::now();
    let is_wanted = |part| only.is_none_or(|only| only == part);
    let mut parts = Vec::new();
    if is_wanted(PartName::Check) {
        parts.push(check::compare(schedule));
    }
    if is_wanted(PartName::Middleware) {
        parts.push(middleware::compare(schedule));
    }
    if is_wanted(PartName::Redis) || is_wanted(PartName::Http) {
        let redis = Rc::new(RedisServer::start()?);
        let mut redis_row = None;
        if is_wanted(PartName::Redis) {
            let (part, row) = redis_path::compare(&redis, schedule)?;
            parts.push(part);
            redis_row = Some(row);
        }
        if is_wanted(PartName::Http) {
            parts.push(http::compare(&redis, redis_row, schedule)?);
        }
    }
    let share_of_others = start.and_then(|start| start.share_of_others());
    let preamble = machine::describe(schedule, share_of_others);
    print!("{}", Report { preamble, parts });
    Ok(())
}
