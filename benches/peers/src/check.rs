//! One check in the process: nanoseconds that it takes, and bytes that an identity takes.

use std::collections::HashSet;
use std::hash::Hash;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::allocations;
use crate::arguments::Pace;
use crate::keyed::{Governor, Keyed, RateNet, TollgateDecision, TollgateVerdict};
use crate::report::{Part, Requirement, Row, grouped, times};
use crate::rounds::{self, Measured, Who, Work};

const MILLION: usize = 1_000_000;

/// What is asked for.
#[derive(Clone, Copy)]
struct Case {
    identities: usize,
    keys: Keys,
}

#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Addresses,
    Strings,
}

/// Nanoseconds that a thread waits for a check, alone and beside another; bytes an identity.
struct Sample {
    alone: f64,
    beside: f64,
    bytes: f64,
}

type Figure = fn(&Sample) -> f64;

const THREADS: [(&str, Figure); 2] = [
    ("1 thread", |sample| sample.alone),
    ("2 threads", |sample| sample.beside),
];

pub(crate) fn compare(pace: Pace) -> Part {
    let cases: Vec<Case> = [1, 1_000, MILLION]
        .into_iter()
        .flat_map(|identities| {
            [Keys::Addresses, Keys::Strings].map(|keys| Case { identities, keys })
        })
        .collect();
    let work = cases.iter().map(|case| case.work(pace)).collect();
    let measured = rounds::run("check", pace.rounds, work);
    let measured = || cases.iter().zip(&measured);
    Part {
        title: "Keyed check in the process, ns (tollgate: verdict of the store / whole decision)",
        rows: measured()
            .flat_map(|(case, measured)| rows(*case, measured))
            .collect(),
        requirements: measured()
            .flat_map(|(case, measured)| requirements(*case, measured))
            .collect(),
    }
}

impl Case {
    fn label(self) -> String {
        let identities = match self.identities {
            1 => "one hot identity".to_owned(),
            many => format!("{} identities", grouped(many as f64)),
        };
        let keys = match self.keys {
            Keys::Addresses => "addresses",
            Keys::Strings => "strings",
        };
        format!("{identities}, {keys}")
    }

    fn work(self, pace: Pace) -> Work<Sample> {
        match self.keys {
            Keys::Addresses => {
                self.contest(pace, || IpAddr::V4(Ipv4Addr::from_bits(fastrand::u32(..))))
            }
            Keys::Strings => self.contest(pace, || {
                format!("user-{:010}", fastrand::u64(..10_000_000_000))
            }),
        }
    }

    fn contest<C>(self, pace: Pace, any: fn() -> C) -> Work<Sample>
    where
        C: Clone + Eq + Hash + Send + Sync + 'static,
        TollgateVerdict: Keyed<C>,
        TollgateDecision: Keyed<C>,
        RateNet: Keyed<C>,
    {
        let clients = Clients::new(self.identities, any);
        let mut work = Work::new(self.label());
        contender::<_, TollgateVerdict>(&mut work, Who::Tollgate, &clients, pace);
        contender::<_, TollgateDecision>(&mut work, Who::TollgateDecision, &clients, pace);
        contender::<_, Governor<C>>(&mut work, Who::Governor, &clients, pace);
        contender::<_, RateNet>(&mut work, Who::RateNet, &clients, pace);
        work
    }
}

/// Clients in the order in which they come first, and in another in which they come afterwards.
struct Clients<C> {
    arrivals: Vec<C>,
    visits: Vec<C>,
}

impl<C: Clone + Eq + Hash> Clients<C> {
    fn new(count: usize, any: impl FnMut() -> C) -> Rc<Self> {
        let mut known = HashSet::with_capacity(count);
        let different = std::iter::repeat_with(any).filter(|client| known.insert(client.clone()));
        let arrivals: Vec<C> = different.take(count).collect();
        let mut visits = arrivals.clone();
        fastrand::shuffle(&mut visits);
        Rc::new(Self { arrivals, visits })
    }
}

/// A new limiter in each round: where its table lies, and how it hashes, is luck.
fn contender<C: 'static, L: Keyed<C>>(
    work: &mut Work<Sample>,
    who: Who,
    clients: &Rc<Clients<C>>,
    pace: Pace,
) {
    let clients = clients.clone();
    work.contender(who, move || {
        // As a request's would be, a key that is asked for lies where it is quickly read, wherever
        // the limiter keeps its own.
        let arrivals: Vec<L::Key> = clients.arrivals.iter().map(L::key).collect();
        let visits: Vec<L::Key> = clients.visits.iter().map(L::key).collect();
        let (limiter, bytes) = allocations::counted(|| {
            let limiter = L::for_identities(arrivals.len());
            assert!(arrivals.iter().all(|key| limiter.allows(key)));
            limiter
        });
        Sample {
            alone: time(&limiter, &visits, 1, pace.in_process),
            beside: time(&limiter, &visits, 2, pace.in_process),
            bytes: bytes as f64 / visits.len() as f64,
        }
    });
}

/// How many checks there are between two looks at the clock.
const AT_A_TIME: u64 = 4_096;

/// Nanoseconds that each of some threads waits for a check.
fn time<C, L: Keyed<C>>(limiter: &L, keys: &[L::Key], threads: usize, at_least: Duration) -> f64 {
    let barrier = Barrier::new(threads);
    let visit = |thread: usize| {
        let mut place = keys.len() * thread / threads;
        let (mut checks, mut allowed) = (0, 0);
        barrier.wait();
        let start = Instant::now();
        let took = loop {
            for _ in 0..AT_A_TIME {
                allowed += u64::from(limiter.allows(black_box(&keys[place])));
                place += 1;
                if place == keys.len() {
                    place = 0;
                }
            }
            checks += AT_A_TIME;
            let took = start.elapsed();
            if took >= at_least {
                break took;
            }
        };
        assert_eq!(allowed, checks, "all are to be allowed");
        took.as_nanos() as f64 / checks as f64
    };
    let sum: f64 = thread::scope(|scope| {
        let visit = &visit;
        let threads: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || visit(thread)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("all are allowed"))
            .sum()
    });
    sum / threads as f64
}

fn rows(case: Case, measured: &Measured<Sample>) -> Vec<Row> {
    let row = |label: &str, figure: Figure| {
        let ours = measured.median(Who::Tollgate, figure);
        let whole = measured.median(Who::TollgateDecision, figure);
        let shown = format!("{} / {}", grouped(ours), grouped(whole));
        let compared = |who| {
            let theirs = measured.median(who, figure);
            format!("{}{}", grouped(theirs), times(theirs / ours))
        };
        Row::new(format!("{}, {label}", measured.label))
            .cell(Who::Tollgate, shown)
            .cell(Who::Governor, compared(Who::Governor))
            .cell(Who::RateNet, compared(Who::RateNet))
    };
    let mut rows: Vec<Row> = THREADS
        .iter()
        .map(|(label, figure)| row(label, *figure))
        .collect();
    if case.identities == MILLION {
        rows.push(row("bytes an identity", |sample| sample.bytes));
    }
    rows
}

fn requirements(case: Case, measured: &Measured<Sample>) -> Vec<Requirement> {
    let required: &[(Who, f64)] = match (case.identities, case.keys) {
        (MILLION, Keys::Strings) => &[(Who::Governor, 2.5), (Who::RateNet, 2.5)],
        (MILLION, Keys::Addresses) => &[(Who::Governor, 1.5)],
        (1, _) => &[(Who::Governor, 2.0)],
        _ => &[],
    };
    let threads = match case.identities {
        1 => &THREADS[1..],
        _ => &THREADS[..],
    };
    let mut requirements = Vec::new();
    for (label, figure) in threads {
        for &(peer, least) in required {
            let theirs = measured.median(peer, figure);
            let ratio = |who| theirs / measured.median(who, figure);
            let what = format!("{}, {label}: as fast as {}", measured.label, peer.name());
            let whole = ratio(Who::TollgateDecision);
            requirements.push(
                Requirement::at_least(what, ratio(Who::Tollgate), least)
                    .aside(format!("whole decision {whole:.2}")),
            );
        }
    }
    if case.identities == MILLION {
        // A store has a few kilobytes beside its table.
        let bytes = measured.median(Who::Tollgate, |sample| sample.bytes.round());
        let what = format!("{}: bytes an identity", measured.label);
        requirements.push(Requirement::at_most(what, bytes, 64.0));
    }
    requirements
}
