//! Measures the throughput and the latency of checks that Redis counts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;

use crate::arguments::Schedule;
use crate::contest::{self, Contender, Contest, Measured};
use crate::histogram::{Histogram, LoadResult};
use crate::redis_limiters::{self, LeanScript, Ping, RedisLimiter, Tollgate};
use crate::redis_server::RedisServer;
use crate::report::{Part, Requirement, Row, format_factor, format_number};
use crate::token_bucket::TokenBucket;

/// The numbers of checks in flight.
const IN_FLIGHT: [usize; 3] = [1, 64, 512];

/// Runs the contests. Returns the part of the report, and a row with the maximum throughput for the
/// part about HTTP.
pub(crate) fn compare(server: &Rc<RedisServer>, schedule: Schedule) -> anyhow::Result<(Part, Row)> {
    // Two cores: one for the limiter's thread, and one for Redis.
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let runtime = Rc::new(runtime);
    let mut contests = Vec::new();
    for clients in Clients::ALL {
        contests.extend(throughput_contests(
            clients,
            server,
            &runtime,
            schedule.in_redis,
        )?);
    }
    let measured = contest::run("redis", schedule.rounds, contests);
    let quiet = quiet_identity_contests(server, &runtime, schedule.in_redis)?;
    let quiet = contest::run("redis beside a busy identity", schedule.rounds, quiet);

    let label = |measured: &Measured<_>| measured.label.clone();
    let maximum_label = "100,000 identities as above, 512 in flight";
    let maximum = row(maximum_label.into(), &measured[IN_FLIGHT.len() - 1]);
    let cases = Clients::ALL
        .into_iter()
        .flat_map(|clients| IN_FLIGHT.map(|in_flight| (clients, in_flight)));
    let part = Part {
        title: "Counts in Redis, one thread and one connection (median / 99th percentile in µs)",
        rows: measured
            .iter()
            .map(|measured| row(label(measured), measured))
            .chain(quiet.iter().map(quiet_row))
            .collect(),
        requirements: cases
            .zip(&measured)
            .filter_map(|((clients, in_flight), measured)| {
                requirement(clients, in_flight, measured)
            })
            .collect(),
    };
    Ok((part, maximum))
}

/// The clients whose checks are made.
#[derive(Clone, Copy)]
enum Clients {
    Distinct,
    Hot,
    Denied,
}

impl Clients {
    const ALL: [Self; 3] = [Self::Distinct, Self::Hot, Self::Denied];

    fn label(self) -> &'static str {
        match self {
            Self::Distinct => "100,000 identities",
            Self::Hot => "one hot identity",
            Self::Denied => "one denied identity",
        }
    }

    fn names(self) -> Vec<String> {
        let count = match self {
            Self::Distinct => 100_000,
            Self::Hot | Self::Denied => 1,
        };
        let name = || format!("user-{:010}", fastrand::u64(..10_000_000_000));
        std::iter::repeat_with(name).take(count).collect()
    }

    fn are_allowed(self) -> bool {
        !matches!(self, Self::Denied)
    }

    fn bucket(self) -> TokenBucket {
        match self {
            Self::Distinct => TokenBucket::SIXTEEN_BITS,
            Self::Hot => TokenBucket::INEXHAUSTIBLE,
            Self::Denied => TokenBucket::ONE,
        }
    }

    /// Returns the bucket of tower-rate-limit-redis, which has at most 16 bits for the burst.
    fn bucket_of_peer(self) -> TokenBucket {
        match self {
            Self::Distinct | Self::Hot => TokenBucket::SIXTEEN_BITS,
            Self::Denied => TokenBucket::ONE,
        }
    }
}

/// Returns a contest for each number of checks in flight.
fn throughput_contests(
    clients: Clients,
    server: &Rc<RedisServer>,
    runtime: &Rc<Runtime>,
    time: Duration,
) -> anyhow::Result<Vec<Contest<LoadResult>>> {
    let names = clients.names();
    let limiter = redis_limiters::tollgate_limiter(server.url())?;
    let tollgate = Tollgate::new(limiter, clients.bucket(), &names);
    let connection = runtime.block_on(redis_limiters::connect_peer(server.url()))?;
    let peer = redis_limiters::peer(connection, clients.bucket_of_peer(), &names);
    let script = runtime.block_on(LeanScript::new(server.url(), &names))?;
    let ping = runtime.block_on(Ping::new(server.url()))?;
    runtime.block_on(async {
        check_each_once(&tollgate, names.len()).await;
        check_each_once(&peer, names.len()).await;
        check_each_once(&script, names.len()).await;
    });

    let contest = |in_flight| {
        let mut contest = Contest::new(format!("{}, {in_flight} in flight", clients.label()));
        let load = Load {
            clients: names.len(),
            are_allowed: clients.are_allowed(),
            in_flight,
            time,
            max_checks: usize::MAX,
        };
        add(&mut contest, Contender::Tollgate, &tollgate, load, runtime);
        if !matches!(clients, Clients::Hot) {
            add(
                &mut contest,
                Contender::TowerRateLimitRedis,
                &peer,
                load,
                runtime,
            );
        }
        match clients {
            Clients::Distinct => {
                add(&mut contest, Contender::LeanScript, &script, load, runtime);
                add(&mut contest, Contender::Ping, &ping, load, runtime);
            }
            Clients::Denied => {}
            Clients::Hot => {
                let (server, runtime, peer) = (server.clone(), runtime.clone(), peer.clone());
                let name = names[0].clone();
                // The bucket is full in each round, and the round ends when it is empty.
                let max_checks = clients.bucket_of_peer().burst() as usize;
                let load = Load { max_checks, ..load };
                contest.add(Contender::TowerRateLimitRedis, move || {
                    server.delete(&name).expect("a reply of Redis");
                    load.run(&runtime, &peer)
                });
            }
        }
        contest
    };
    Ok(IN_FLIGHT.into_iter().map(contest).collect())
}

/// Returns contests that measure the latency of identities with few checks: without other checks,
/// and while one identity has 10,000 checks in flight.
fn quiet_identity_contests(
    server: &Rc<RedisServer>,
    runtime: &Rc<Runtime>,
    time: Duration,
) -> anyhow::Result<Vec<Contest<LoadResult>>> {
    let limiter = redis_limiters::tollgate_limiter(server.url())?;
    let names = Clients::Hot.names();
    let busy = Tollgate::new(limiter.clone(), TokenBucket::INEXHAUSTIBLE, &names);
    let names: Vec<_> = (0..50).map(|index| format!("quiet-{index}")).collect();
    let quiet = Tollgate::new(limiter, TokenBucket::INEXHAUSTIBLE, &names);
    let clients = names.len();
    let contest = |in_flight: usize| {
        let mut contest = Contest::new(match in_flight {
            0 => "a quiet identity, alone".to_owned(),
            _ => format!(
                "the same beside {} checks of a busy one",
                format_number(in_flight as f64)
            ),
        });
        let (runtime, busy, quiet) = (runtime.clone(), busy.clone(), quiet.clone());
        contest.add(Contender::Tollgate, move || {
            runtime.block_on(async {
                let mut busy_tasks = JoinSet::new();
                for _ in 0..in_flight {
                    let mut busy = busy.clone();
                    busy_tasks.spawn(async move {
                        loop {
                            busy.allows(0).await;
                        }
                    });
                }
                let quiet = quiet.clone();
                // Spawned, so that it runs on the same thread as the busy tasks.
                let checks = tokio::spawn(check_each_millisecond(quiet, clients, time));
                checks.await.expect("no check panics")
            })
        });
        contest
    };
    Ok([0, 10_000].into_iter().map(contest).collect())
}

/// Makes a check of one client after another, with a pause of a millisecond after each.
async fn check_each_millisecond(
    mut limiter: impl RedisLimiter,
    clients: usize,
    time: Duration,
) -> LoadResult {
    let histogram = Histogram::new();
    let start = Instant::now();
    let mut client = 0;
    while start.elapsed() < time {
        let began = Instant::now();
        assert!(limiter.allows(client).await, "a check was denied");
        histogram.record(began.elapsed());
        client = (client + 1) % clients;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    histogram.load_result(start.elapsed())
}

fn quiet_row(measured: &Measured<LoadResult>) -> Row {
    Row::new(measured.label.clone()).cell(
        Contender::Tollgate,
        format_load_result(measured, Contender::Tollgate),
    )
}

/// Adds a limiter to a contest.
fn add(
    contest: &mut Contest<LoadResult>,
    contender: Contender,
    limiter: &impl RedisLimiter,
    load: Load,
    runtime: &Rc<Runtime>,
) {
    let (runtime, limiter) = (runtime.clone(), limiter.clone());
    contest.add(contender, move || load.run(&runtime, &limiter));
}

/// Makes one check of each client, allowed or not, so that no timed check creates a key.
async fn check_each_once(limiter: &impl RedisLimiter, clients: usize) {
    let tasks = clients.min(64);
    let tasks = (0..tasks).map(|first| {
        let mut limiter = limiter.clone();
        async move {
            for client in (first..clients).step_by(tasks) {
                limiter.allows(client).await;
            }
        }
    });
    tasks.collect::<JoinSet<()>>().join_all().await;
}

/// Checks that are made for some time, by as many tasks as there are checks in flight.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    are_allowed: bool,
    in_flight: usize,
    time: Duration,
    /// The number of checks after which the load ends early.
    max_checks: usize,
}

impl Load {
    fn run(self, runtime: &Runtime, limiter: &impl RedisLimiter) -> LoadResult {
        let histogram = Arc::new(Histogram::new());
        let start = Instant::now();
        let task = |task| {
            let first = self.clients * task / self.in_flight;
            self.run_task(limiter.clone(), first, start, histogram.clone())
        };
        runtime.block_on(async {
            let tasks: JoinSet<()> = (0..self.in_flight).map(task).collect();
            tasks.join_all().await;
        });
        histogram.load_result(start.elapsed())
    }

    /// Makes checks of one client after another, starting with the client `first`.
    async fn run_task(
        self,
        mut limiter: impl RedisLimiter,
        first: usize,
        start: Instant,
        histogram: Arc<Histogram>,
    ) {
        let mut client = first;
        let mut last = Instant::now();
        for _ in 0..self.max_checks / self.in_flight {
            let is_allowed = limiter.allows(client).await;
            assert_eq!(is_allowed, self.are_allowed, "not the expected decision");
            let now = Instant::now();
            histogram.record(now - last);
            if now - start >= self.time {
                break;
            }
            last = now;
            client = (client + 1) % self.clients;
        }
    }
}

fn row(label: String, measured: &Measured<LoadResult>) -> Row {
    let peer = Contender::TowerRateLimitRedis;
    let rate = |contender| measured.median(contender, LoadResult::rate);
    let factor = format_factor(rate(Contender::Tollgate) / rate(peer));
    let result = |contender| format_load_result(measured, contender);
    let mut row = Row::new(label)
        .cell(Contender::Tollgate, result(Contender::Tollgate))
        .cell(peer, result(peer) + &factor);
    if measured.includes(Contender::Ping) {
        let baselines = [
            ("a lean EVALSHA", Contender::LeanScript),
            ("PING", Contender::Ping),
        ];
        let baselines = baselines.map(|(name, contender)| format!("{name}: {}", result(contender)));
        row = row.cell(Contender::Bare, baselines.join("<br>"));
    }
    row
}

fn requirement(
    clients: Clients,
    in_flight: usize,
    measured: &Measured<LoadResult>,
) -> Option<Requirement> {
    let rate = |contender| measured.median(contender, LoadResult::rate);
    let tollgate = rate(Contender::Tollgate);
    let peer = Contender::TowerRateLimitRedis;
    let least = match (clients, in_flight) {
        (Clients::Distinct, 1) => 0.9,
        (Clients::Distinct, _) => 2.0,
        (Clients::Hot, 512) => 5.0,
        (Clients::Denied, 1) => {
            let label = format!("{}: decisions a second on one thread", measured.label);
            return Some(Requirement::at_least(label, tollgate, 1_000_000.0));
        }
        _ => return None,
    };
    let label = format!("{}: throughput relative to {}", measured.label, peer.name());
    Some(Requirement::at_least(label, tollgate / rate(peer), least))
}

/// Formats the rate of a contender, its median latency and its 99th percentile.
pub(crate) fn format_load_result(measured: &Measured<LoadResult>, contender: Contender) -> String {
    let figure = |figure: fn(&LoadResult) -> f64| format_number(measured.median(contender, figure));
    let rate = figure(|result| result.per_second);
    let median = figure(|result| result.median);
    let p99 = figure(|result| result.p99);
    format!("{rate}/s; {median} / {p99}")
}
