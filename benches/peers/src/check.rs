//! Times one check in the process, and measures the memory of an identity.

use std::collections::HashSet;
use std::hash::Hash;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::allocations;
use crate::arguments::Schedule;
use crate::contest::{self, Contender, Contest, Measured};
use crate::local_limiters::{Governor, LocalLimiter, RateNet, TollgateDecision, TollgateVerdict};
use crate::report::{Part, Requirement, Row, format_factor, format_number};

const MILLION: usize = 1_000_000;

/// The identities of a contest.
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

/// The figures of one contender in one round.
struct Sample {
    /// The time of a check in nanoseconds, with one thread.
    one_thread: f64,
    /// The time of a check in nanoseconds, with two threads that check at the same time.
    two_threads: f64,
    bytes_per_identity: f64,
}

type Figure = fn(&Sample) -> f64;

const THREADS: [(&str, Figure); 2] = [
    ("1 thread", |sample| sample.one_thread),
    ("2 threads", |sample| sample.two_threads),
];

pub(crate) fn compare(schedule: Schedule) -> Part {
    let cases: Vec<Case> = [1, 1_000, MILLION]
        .into_iter()
        .flat_map(|identities| {
            [Keys::Addresses, Keys::Strings].map(|keys| Case { identities, keys })
        })
        .collect();
    let contests = cases.iter().map(|case| case.contest(schedule)).collect();
    let measured = contest::run("check", schedule.rounds, contests);
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
            many => format!("{} identities", format_number(many as f64)),
        };
        let keys = match self.keys {
            Keys::Addresses => "addresses",
            Keys::Strings => "strings",
        };
        format!("{identities}, {keys}")
    }

    fn contest(self, schedule: Schedule) -> Contest<Sample> {
        match self.keys {
            Keys::Addresses => self.contest_of(schedule, || {
                IpAddr::V4(Ipv4Addr::from_bits(fastrand::u32(..)))
            }),
            Keys::Strings => self.contest_of(schedule, || {
                format!("user-{:010}", fastrand::u64(..10_000_000_000))
            }),
        }
    }

    /// Returns the contest with clients that `random` generates.
    fn contest_of<C>(self, schedule: Schedule, random: fn() -> C) -> Contest<Sample>
    where
        C: Clone + Eq + Hash + Send + Sync + 'static,
        TollgateVerdict: LocalLimiter<C>,
        TollgateDecision: LocalLimiter<C>,
        RateNet: LocalLimiter<C>,
    {
        let clients = Clients::new(self.identities, random);
        let mut contest = Contest::new(self.label());
        add::<_, TollgateVerdict>(&mut contest, Contender::Tollgate, &clients, schedule);
        add::<_, TollgateDecision>(
            &mut contest,
            Contender::TollgateDecision,
            &clients,
            schedule,
        );
        add::<_, Governor<C>>(&mut contest, Contender::Governor, &clients, schedule);
        add::<_, RateNet>(&mut contest, Contender::RateNet, &clients, schedule);
        contest
    }
}

/// Clients in the order of their first checks, and in another order for the timed checks.
struct Clients<C> {
    first: Vec<C>,
    timed: Vec<C>,
}

impl<C: Clone + Eq + Hash> Clients<C> {
    fn new(count: usize, random: impl FnMut() -> C) -> Rc<Self> {
        let mut known = HashSet::with_capacity(count);
        let distinct = std::iter::repeat_with(random).filter(|client| known.insert(client.clone()));
        let first: Vec<C> = distinct.take(count).collect();
        let mut timed = first.clone();
        fastrand::shuffle(&mut timed);
        Rc::new(Self { first, timed })
    }
}

/// Adds a limiter, which is made anew in each round: the address of its table and the seed of its
/// hash affect the time.
fn add<C: 'static, L: LocalLimiter<C>>(
    contest: &mut Contest<Sample>,
    contender: Contender,
    clients: &Rc<Clients<C>>,
    schedule: Schedule,
) {
    let clients = clients.clone();
    contest.add(contender, move || {
        // The keys are in the order of their use, so that reading them costs as little as reading
        // the key of a request. The limiter's own keys are elsewhere.
        let first: Vec<L::Key> = clients.first.iter().map(L::key).collect();
        let timed: Vec<L::Key> = clients.timed.iter().map(L::key).collect();
        let (limiter, bytes) = allocations::count_bytes(|| {
            let limiter = L::for_identities(first.len());
            assert!(first.iter().all(|key| limiter.allows(key)));
            limiter
        });
        Sample {
            one_thread: time(&limiter, &timed, 1, schedule.in_process),
            two_threads: time(&limiter, &timed, 2, schedule.in_process),
            bytes_per_identity: bytes as f64 / timed.len() as f64,
        }
    });
}

/// The number of checks between two readings of the clock.
const CHECKS_PER_READING: u64 = 4_096;

/// Returns the mean time of a check in nanoseconds. Each thread makes checks for at least this
/// time.
fn time<C, L: LocalLimiter<C>>(
    limiter: &L,
    keys: &[L::Key],
    threads: usize,
    at_least: Duration,
) -> f64 {
    let barrier = Barrier::new(threads);
    let run_thread = |thread: usize| {
        let mut next = keys.len() * thread / threads;
        let (mut checks, mut allowed) = (0, 0);
        barrier.wait();
        let start = Instant::now();
        let elapsed = loop {
            for _ in 0..CHECKS_PER_READING {
                allowed += u64::from(limiter.allows(black_box(&keys[next])));
                next += 1;
                if next == keys.len() {
                    next = 0;
                }
            }
            checks += CHECKS_PER_READING;
            let elapsed = start.elapsed();
            if elapsed >= at_least {
                break elapsed;
            }
        };
        assert_eq!(allowed, checks, "a check was denied");
        elapsed.as_nanos() as f64 / checks as f64
    };
    let sum: f64 = thread::scope(|scope| {
        let run_thread = &run_thread;
        let threads: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run_thread(thread)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no check was denied"))
            .sum()
    });
    sum / threads as f64
}

fn rows(case: Case, measured: &Measured<Sample>) -> Vec<Row> {
    let row = |label: &str, figure: Figure| {
        let verdict = measured.median(Contender::Tollgate, figure);
        let decision = measured.median(Contender::TollgateDecision, figure);
        let both = format!("{} / {}", format_number(verdict), format_number(decision));
        let compared = |peer| {
            let peer = measured.median(peer, figure);
            format!("{}{}", format_number(peer), format_factor(peer / verdict))
        };
        Row::new(format!("{}, {label}", measured.label))
            .cell(Contender::Tollgate, both)
            .cell(Contender::Governor, compared(Contender::Governor))
            .cell(Contender::RateNet, compared(Contender::RateNet))
    };
    let mut rows: Vec<Row> = THREADS
        .iter()
        .map(|(label, figure)| row(label, *figure))
        .collect();
    if case.identities == MILLION {
        rows.push(row("bytes an identity", |sample| sample.bytes_per_identity));
    }
    rows
}

fn requirements(case: Case, measured: &Measured<Sample>) -> Vec<Requirement> {
    let required: &[(Contender, f64)] = match (case.identities, case.keys) {
        (MILLION, Keys::Strings) => &[(Contender::Governor, 2.5), (Contender::RateNet, 2.5)],
        (MILLION, Keys::Addresses) => &[(Contender::Governor, 1.5)],
        (1, _) => &[(Contender::Governor, 2.0)],
        _ => &[],
    };
    let threads = match case.identities {
        1 => &THREADS[1..],
        _ => &THREADS[..],
    };
    let mut requirements = Vec::new();
    for (label, figure) in threads {
        for &(peer, least) in required {
            let time_of_peer = measured.median(peer, figure);
            let speed = |contender| time_of_peer / measured.median(contender, figure);
            let label = format!(
                "{}, {label}: speed relative to {}",
                measured.label,
                peer.name()
            );
            let decision = speed(Contender::TollgateDecision);
            requirements.push(
                Requirement::at_least(label, speed(Contender::Tollgate), least)
                    .remark(format!("whole decision {decision:.2}")),
            );
        }
    }
    if case.identities == MILLION {
        // Rounded, because a store has a few kilobytes besides its table.
        let bytes = |sample: &Sample| sample.bytes_per_identity.round();
        let bytes = measured.median(Contender::Tollgate, bytes);
        let label = format!("{}: bytes an identity", measured.label);
        requirements.push(Requirement::at_most(label, bytes, 64.0));
    }
    requirements
}
