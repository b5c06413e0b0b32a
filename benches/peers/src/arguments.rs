//! What this is asked to do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use lexopt::{Arg, ValueExt};

pub(crate) enum Arguments {
    /// To compare: all parts, or one.
    Compare { pace: Pace, only: Option<Only> },
    /// To be the clients of a server, for a parent that compares.
    Load { server: SocketAddr, time: Duration },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Only {
    Check,
    Middleware,
    Redis,
    Http,
}

/// How many rounds there are, and how long each contender is timed in each.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) in_process: Duration,
    pub(crate) in_redis: Duration,
    pub(crate) over_http: Duration,
}

impl Pace {
    const FULL: Self = Self {
        rounds: 7,
        in_process: Duration::from_millis(300),
        in_redis: Duration::from_millis(500),
        over_http: Duration::from_millis(500),
    };

    /// Enough to see that everything works, and nothing to go by.
    const QUICK: Self = Self {
        rounds: 1,
        in_process: Duration::from_millis(20),
        in_redis: Duration::from_millis(50),
        over_http: Duration::from_millis(100),
    };

    /// Contenders differ least there, and are disturbed most: their times are short and many.
    pub(crate) fn http_rounds(self) -> usize {
        3 * self.rounds
    }
}

impl Arguments {
    pub(crate) fn parse() -> anyhow::Result<Self> {
        let (mut pace, mut rounds, mut only) = (Pace::FULL, None, None);
        let (mut server, mut time) = (None, Pace::FULL.over_http);
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("quick") => pace = Pace::QUICK,
                Arg::Long("rounds") => rounds = Some(parser.value()?.parse()?),
                Arg::Long("only") => only = Some(parser.value()?.parse_with(Only::parse)?),
                Arg::Long("load") => server = Some(parser.value()?.parse()?),
                Arg::Long("milliseconds") => {
                    time = Duration::from_millis(parser.value()?.parse()?);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        if let Some(server) = server {
            return Ok(Self::Load { server, time });
        }
        pace.rounds = rounds.unwrap_or(pace.rounds);
        if pace.rounds == 0 {
            bail!("there must be a round at least");
        }
        Ok(Self::Compare { pace, only })
    }
}

impl Only {
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
