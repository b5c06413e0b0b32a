//! File descriptors, which limit the number of connections.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for listeners, files that are read, the overrides, and connections that are being
/// refused.
const RESERVED: u64 = 64;

/// Connections of all clients, unless set: enough for any use, and bounded in memory.
const DEFAULT: usize = 10_000;

/// How many connections clients may have: as many as are set, or as the process has descriptors for.
/// Those to Redis, `to_redis`, are not among them.
pub(super) fn max_connections(set: Option<u32>, to_redis: usize) -> anyhow::Result<usize> {
    let descriptors = raise_limit();
    let reserved = RESERVED + to_redis as u64;
    let available = descriptors.saturating_sub(reserved).max(1);
    let available = usize::try_from(available).unwrap_or(usize::MAX);
    let Some(set) = set else {
        return Ok(available.min(DEFAULT));
    };
    let set = set as usize;
    if set > available {
        bail!(
            "listen.max_connections is {set}, and the limit of {descriptors} file descriptors allows \
             {available}: set less, or raise the limit (ulimit -n)"
        );
    }
    Ok(set)
}

/// Raises the limit of descriptors as far as the process may, and returns it. The usual limit of
/// 1,024 is low for the sake of `select`, which the server does not use.
fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(_) => limit,
    };
    limit.current.unwrap_or(u64::MAX)
}
