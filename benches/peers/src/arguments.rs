//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use lexopt::{Arg, ValueExt};

pub(crate) enum Arguments {
    /// Compares all parts, or one.
    Compare {
        schedule: Schedule,
        only: Option<PartName>,
    },
    /// Sends requests to a server, as a child process of a program that compares.
    SendRequests { server: SocketAddr, time: Duration },
}

/// The name of a part of the comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartName {
    Check,
    Middleware,
    Redis,
    Http,
}

/// The number of rounds, and the time of each contender in a round.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) rounds: usize,
    pub(crate) in_process: Duration,
    pub(crate) in_redis: Duration,
    pub(crate) over_http: Duration,
}

impl Schedule {
    const FULL: Self = Self {
        rounds: 7,
        in_process: Duration::from_millis(300),
        in_redis: Duration::from_millis(500),
        over_http: Duration::from_millis(500),
    };

    /// Shows that everything works. The figures are not reliable.
    const QUICK: Self = Self {
        rounds: 1,
        in_process: Duration::from_millis(20),
        in_redis: Duration::from_millis(50),
        over_http: Duration::from_millis(100),
    };

    /// Over HTTP, contenders differ least and other load disturbs most, so there are more rounds.
    pub(crate) fn http_rounds(self) -> usize {
        3 * self.rounds
    }
}

impl Arguments {
    pub(crate) fn parse() -> anyhow::Result<Self> {
        let (mut schedule, mut rounds, mut only) = (Schedule::FULL, None, None);
        let (mut server, mut time) = (None, Schedule::FULL.over_http);
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("quick") => schedule = Schedule::QUICK,
                Arg::Long("rounds") => rounds = Some(parser.value()?.parse()?),
                Arg::Long("only") => only = Some(parser.value()?.parse_with(PartName::parse)?),
                Arg::Long("send-requests-to") => server = Some(parser.value()?.parse()?),
                Arg::Long("milliseconds") => {
                    time = Duration::from_millis(parser.value()?.parse()?);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        if let Some(server) = server {
            return Ok(Self::SendRequests { server, time });
        }
        schedule.rounds = rounds.unwrap_or(schedule.rounds);
        if schedule.rounds == 0 {
            bail!("--rounds must be at least 1");
        }
        Ok(Self::Compare { schedule, only })
    }
}

impl PartName {
    fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "check" => Ok(Self::Check),
            "middleware" => Ok(Self::Middleware),
            "redis" => Ok(Self::Redis),
            "http" => Ok(Self::Http),
            _ => Err("the parts are check, middleware, redis and http"),
        }
    }
}
