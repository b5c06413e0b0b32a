//! Checks by way of Redis: how many a second, and how long each takes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;

use crate::allowance::Allowance;
use crate::arguments::Pace;
use crate::asking::{self, Ask, LeanScript, Ping, Tollgate};
use crate::latencies::{Latencies, Throughput};
use crate::redis_server::RedisServer;
use crate::report::{Part, Requirement, Row, grouped, times};
use crate::rounds::{self, Measured, Who, Work};

const IN_FLIGHT: [usize; 3] = [1, 64, 512];

/// What is compared, and a row that says how much of it Redis takes at most.
pub(crate) fn compare(server: &Rc<RedisServer>, pace: Pace) -> anyhow::Result<(Part, Row)> {
    // One thread is the limiter's, and the other core is left to Redis.
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let runtime = Rc::new(runtime);
    let mut work = Vec::new();
    for clients in Clients::ALL {
        work.extend(contest(clients, server, &runtime, pace.in_redis)?);
    }
    let measured = rounds::run("redis", pace.rounds, work);
    let quiet = quiet(server, &runtime, pace.in_redis)?;
    let quiet = rounds::run("redis beside a busy identity", pace.rounds, quiet);

    let label = |measured: &Measured<_>| measured.label.clone();
    let label_of_most = "100,000 identities as above, 512 in flight";
    let most = row(label_of_most.into(), &measured[IN_FLIGHT.len() - 1]);
    let cases = Clients::ALL
        .into_iter()
        .flat_map(|clients| IN_FLIGHT.map(|in_flight| (clients, in_flight)));
    let part = Part {
        title: "Counts in Redis, one thread and one connection (median / 99th percentile in µs)",
        rows: measured
            .iter()
            .map(|one| row(label(one), one))
            .chain(quiet.iter().map(quiet_row))
            .collect(),
        requirements: cases
            .zip(&measured)
            .filter_map(|((clients, in_flight), one)| requirement(clients, in_flight, one))
            .collect(),
    };
    Ok((part, most))
}

/// Who is asked about.
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

    fn allowance(self) -> Allowance {
        match self {
            Self::Distinct => Allowance::SIXTEEN_BITS,
            Self::Hot => Allowance::ENOUGH,
            Self::Denied => Allowance::ONE,
        }
    }

    fn allowance_of_peer(self) -> Allowance {
        match self {
            Self::Distinct | Self::Hot => Allowance::SIXTEEN_BITS,
            Self::Denied => Allowance::ONE,
        }
    }
}

/// With each number in flight.
fn contest(
    clients: Clients,
    server: &Rc<RedisServer>,
    runtime: &Rc<Runtime>,
    time: Duration,
) -> anyhow::Result<Vec<Work<Throughput>>> {
    let names = clients.names();
    let limiter = asking::patient_limiter(server.url())?;
    let tollgate = Tollgate::new(limiter, clients.allowance(), &names);
    let connection = runtime.block_on(asking::connection_of_peer(server.url()))?;
    let peer = asking::peer(connection, clients.allowance_of_peer(), &names);
    let script = runtime.block_on(LeanScript::new(server.url(), &names))?;
    let ping = runtime.block_on(Ping::new(server.url()))?;
    runtime.block_on(async {
        each_once(&tollgate, names.len()).await;
        each_once(&peer, names.len()).await;
        each_once(&script, names.len()).await;
    });

    let contest = |in_flight| {
        let mut work = Work::new(format!("{}, {in_flight} in flight", clients.label()));
        let demand = Demand {
            clients: names.len(),
            are_allowed: clients.are_allowed(),
            in_flight,
            time,
            most: usize::MAX,
        };
        contender(&mut work, Who::Tollgate, &tollgate, demand, runtime);
        match clients {
            Clients::Distinct => {
                contender(&mut work, Who::TowerRateLimitRedis, &peer, demand, runtime);
                contender(&mut work, Who::LeanScript, &script, demand, runtime);
                contender(&mut work, Who::Ping, &ping, demand, runtime);
            }
            Clients::Denied => {
                contender(&mut work, Who::TowerRateLimitRedis, &peer, demand, runtime);
            }
            Clients::Hot => {
                let (server, runtime, peer) = (server.clone(), runtime.clone(), peer.clone());
                let name = names[0].clone();
                // As long as its quota lasts.
                let most = clients.allowance_of_peer().burst() as usize;
                let demand = Demand { most, ..demand };
                work.contender(Who::TowerRateLimitRedis, move || {
                    server.forget(&name).expect("Redis answers");
                    demand.meet(&runtime, &peer)
                });
            }
        }
        work
    };
    Ok(IN_FLIGHT.into_iter().map(contest).collect())
}

/// Checks of identities that ask now and then: alone, and while one identity has very many checks in
/// flight.
fn quiet(
    server: &Rc<RedisServer>,
    runtime: &Rc<Runtime>,
    time: Duration,
) -> anyhow::Result<Vec<Work<Throughput>>> {
    let limiter = asking::patient_limiter(server.url())?;
    let names = Clients::Hot.names();
    let busy = Tollgate::new(limiter.clone(), Allowance::ENOUGH, &names);
    let names: Vec<_> = (0..50).map(|index| format!("quiet-{index}")).collect();
    let quiet = Tollgate::new(limiter, Allowance::ENOUGH, &names);
    let clients = names.len();
    let work = |in_flight: usize| {
        let mut work = Work::new(match in_flight {
            0 => "a quiet identity, alone".to_owned(),
            _ => format!(
                "the same beside {} checks of a busy one",
                grouped(in_flight as f64)
            ),
        });
        let (runtime, busy, quiet) = (runtime.clone(), busy.clone(), quiet.clone());
        work.contender(Who::Tollgate, move || {
            runtime.block_on(async {
                let mut others = JoinSet::new();
                for _ in 0..in_flight {
                    let mut busy = busy.clone();
                    others.spawn(async move {
                        loop {
                            busy.ask(0).await;
                        }
                    });
                }
                let quiet = quiet.clone();
                // On the runtime's own thread, as the busy tasks are.
                let asked = tokio::spawn(now_and_then(quiet, clients, time));
                asked.await.expect("nothing panics")
            })
        });
        work
    };
    Ok([0, 10_000].into_iter().map(work).collect())
}

/// Asks about one client after another, with pauses.
async fn now_and_then(mut asked: impl Ask, clients: usize, time: Duration) -> Throughput {
    let latencies = Latencies::new();
    let start = Instant::now();
    let mut client = 0;
    while start.elapsed() < time {
        let began = Instant::now();
        assert!(asked.ask(client).await, "the quota is enough");
        latencies.note(began.elapsed());
        client = (client + 1) % clients;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    latencies.over(start.elapsed())
}

fn quiet_row(measured: &Measured<Throughput>) -> Row {
    Row::new(measured.label.clone()).cell(Who::Tollgate, shown(measured, Who::Tollgate))
}

fn contender(
    work: &mut Work<Throughput>,
    who: Who,
    asked: &impl Ask,
    demand: Demand,
    runtime: &Rc<Runtime>,
) {
    let (runtime, asked) = (runtime.clone(), asked.clone());
    work.contender(who, move || demand.meet(&runtime, &asked));
}

/// Asks about every client, whatever the answer: what was never asked about is not yet known.
async fn each_once(asked: &impl Ask, clients: usize) {
    let tasks = clients.min(64);
    let tasks = (0..tasks).map(|first| {
        let mut asked = asked.clone();
        async move {
            for client in (first..clients).step_by(tasks) {
                asked.ask(client).await;
            }
        }
    });
    tasks.collect::<JoinSet<()>>().join_all().await;
}

/// To be asked about clients for some time, by as many tasks as questions are in flight.
#[derive(Clone, Copy)]
struct Demand {
    clients: usize,
    are_allowed: bool,
    in_flight: usize,
    time: Duration,
    /// How many questions there may be.
    most: usize,
}

impl Demand {
    fn meet(self, runtime: &Runtime, asked: &impl Ask) -> Throughput {
        let latencies = Arc::new(Latencies::new());
        let start = Instant::now();
        let task = |task| {
            let first = self.clients * task / self.in_flight;
            self.ask_on(asked.clone(), first, start, latencies.clone())
        };
        runtime.block_on(async {
            let tasks: JoinSet<()> = (0..self.in_flight).map(task).collect();
            tasks.join_all().await;
        });
        latencies.over(start.elapsed())
    }

    /// Asks about one client after another.
    async fn ask_on(
        self,
        mut asked: impl Ask,
        first: usize,
        start: Instant,
        latencies: Arc<Latencies>,
    ) {
        let mut client = first;
        let mut last = Instant::now();
        for _ in 0..self.most / self.in_flight {
            let is_allowed = asked.ask(client).await;
            assert_eq!(is_allowed, self.are_allowed, "all are to be answered alike");
            let now = Instant::now();
            latencies.note(now - last);
            if now - start >= self.time {
                break;
            }
            last = now;
            client = (client + 1) % self.clients;
        }
    }
}

fn row(label: String, measured: &Measured<Throughput>) -> Row {
    let ours = measured.median(Who::Tollgate, Throughput::rate);
    let peer = Who::TowerRateLimitRedis;
    let ratio = ours / measured.median(peer, Throughput::rate);
    let mut row = Row::new(label)
        .cell(Who::Tollgate, shown(measured, Who::Tollgate))
        .cell(peer, format!("{}{}", shown(measured, peer), times(ratio)));
    if measured.includes(Who::Ping) {
        let references = [("a lean EVALSHA", Who::LeanScript), ("PING", Who::Ping)];
        let references = references.map(|(name, who)| format!("{name}: {}", shown(measured, who)));
        row = row.cell(Who::Bare, references.join("<br>"));
    }
    row
}

fn requirement(
    clients: Clients,
    in_flight: usize,
    measured: &Measured<Throughput>,
) -> Option<Requirement> {
    let rate = |who| measured.median(who, Throughput::rate);
    let ours = rate(Who::Tollgate);
    let peer = Who::TowerRateLimitRedis;
    let least = match (clients, in_flight) {
        (Clients::Distinct, 1) => 0.9,
        (Clients::Distinct, _) => 2.0,
        (Clients::Hot, 512) => 5.0,
        (Clients::Denied, 1) => {
            let what = format!("{}: decisions a second on one thread", measured.label);
            return Some(Requirement::at_least(what, ours, 1_000_000.0));
        }
        _ => return None,
    };
    let what = format!("{}: as many as {}", measured.label, peer.name());
    Some(Requirement::at_least(what, ours / rate(peer), least))
}

/// How much one does, and how long each waited.
pub(crate) fn shown(measured: &Measured<Throughput>, who: Who) -> String {
    let shown = |figure: fn(&Throughput) -> f64| grouped(measured.median(who, figure));
    let rate = shown(|throughput| throughput.per_second);
    let median = shown(|throughput| throughput.median);
    let p99 = shown(|throughput| throughput.p99);
    format!("{rate}/s; {median} / {p99}")
}
