//! Lua and Rust are one: the script in a real server, with its clock in a key, against the pure
//! steps.

#[expect(clippy::unwrap_used, reason = "these are tests")]
#[path = "../../../tests/support/redis/mod.rs"]
mod servers;
#[expect(clippy::unwrap_used, reason = "these are tests")]
#[path = "../../../tests/support/vectors.rs"]
mod vectors;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, cmd};
use servers::Server;
use tokio::runtime::Runtime;

use super::script::{Group, Question};
use super::*;
use crate::clock::Clock;
use crate::clock::ManualClock;
use crate::identity::Identity;
use crate::quota::{EncodedQuota, Limits, Quota, State};
use crate::store::conformance;
use crate::store::verdict::PerPolicy;

const CLOCK: &str = "clock";

async fn connect(server: &Server) -> MultiplexedConnection {
    let client = Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    connection.expect("a server")
}

fn set_clock(now: u64) -> Cmd {
    let mut command = cmd("HSET");
    command.arg(CLOCK).arg("seconds").arg(now / 1_000_000);
    command.arg("microseconds").arg(now % 1_000_000);
    command
}

/// A store whose server has the time of a clock set by hand, and which remembers no denials, since
/// those end by the real time.
#[derive(Clone)]
struct Clocked {
    store: RedisStore,
    connection: MultiplexedConnection,
    clock: ManualClock,
}

impl Clocked {
    async fn new(server: &Server) -> Self {
        let script = Script::with_clock_in(CLOCK);
        let store = RedisStore::builder(&server.url()).build_with(script);
        let clock = ManualClock::new();
        let mut connection = connect(server).await;
        let set: Result<i64, _> = set_clock(clock.now()).query_async(&mut connection).await;
        set.expect("the clock is set");
        Self {
            store: store.expect("a URL"),
            connection,
            clock,
        }
    }

    fn put<T: 'static>(
        &self,
        operation: Operation,
        check: &Check<'_>,
        answered: fn(Verdict) -> T,
    ) -> Outcome<T> {
        let (clocked, check) = (self.clone(), check.into_owned());
        Outcome::Pending(Box::pin(async move {
            let mut connection = clocked.connection;
            let set: Result<i64, _> = set_clock(clocked.clock.now())
                .query_async(&mut connection)
                .await;
            set.expect("the clock is set");
            let (core, check) = (&clocked.store.core, check.borrow());
            let subject = Subject::new(&check);
            let reply = core.put(operation, &check, subject, false);
            Outcome::from(reply).wait().await.map(answered)
        }))
    }
}

impl Store for Clocked {
    fn check(&self, check: &Check<'_>) -> Outcome {
        self.put(Operation::Check, check, |verdict| verdict)
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        self.put(Operation::Reset, check, drop)
    }
}

#[tokio::test]
async fn the_script_follows_the_algorithms_through_time() {
    let server = Server::start().await;
    let store = Clocked::new(&server).await;
    let clock = store.clock.clone();
    conformance::check_with_clock(store, &clock).await;
}

#[tokio::test]
async fn the_script_follows_every_vector() {
    let server = Server::start().await;
    let store = Clocked::new(&server).await;
    for case in vectors::cases() {
        let (identity, limits) = (Identity::user(&case.name), Limits::from(case.quota));
        for (index, (now, cost)) in case.steps().enumerate() {
            store.clock.set(now);
            let check = Check::new(&identity, &limits).cost(cost);
            let verdict = store.check(&check).wait().await.expect("a verdict");
            let (_, status) = case.quota.step(verdict.states[0], verdict.now, cost);
            assert_eq!(
                status.is_allowed(),
                verdict.is_allowed(),
                "{}, step {index}",
                case.name
            );
            case.check(index, &status);
        }
    }
}

/// Quotas of all algorithms, plain ones and some whose products come as near to 2^53 as can be.
fn quotas() -> Vec<Quota> {
    let day = Duration::from_secs(86_400);
    vec![
        Quota::per_second(3),
        // Tokens of whole microseconds, which the server adds to a number.
        Quota::per_second(10),
        Quota::per_minute(2).burst(5),
        Quota::per_second(1_000_000).burst(u32::MAX),
        Quota::token_bucket(7, Duration::from_secs(3)).burst(20),
        Quota::per_day(123_457),
        Quota::per_second(94_906_249),
        Quota::token_bucket(1, 3_650 * day),
        Quota::token_bucket(4_000_000_000, Duration::from_secs(1)).burst(10),
        Quota::sliding_window(10, Duration::from_secs(1)),
        Quota::sliding_window(u32::MAX, Duration::from_millis(1 << 21)),
        Quota::sliding_window(1, Duration::from_millis(1)),
        Quota::fixed_window(10, Duration::from_secs(30)),
        Quota::fixed_window(2, 3_650 * day),
    ]
}

/// What is done to which keys, one step of a test.
#[derive(Clone, Debug)]
struct Act {
    operation: Operation,
    cost: u32,
    times: usize,
    /// For how many identities, one after the other.
    identities: usize,
    /// Which keys, each with what is carried to it: a number of words of a state.
    counts: Vec<(usize, Option<[u64; 2]>)>,
}

fn acts() -> impl Strategy<Value = Vec<(i64, Vec<Act>)>> {
    let quotas = quotas().len();
    let operation = prop_oneof![
        8 => Just(Operation::Check),
        1 => Just(Operation::Reset),
    ];
    let cost = prop_oneof![
        6 => 0..6_u32,
        1 => 0..100_000_000_u32,
        1 => (u32::MAX - 1)..=u32::MAX,
        1 => 94_906_240..94_906_252_u32,
    ];
    let times = prop_oneof![3 => Just(1_usize), 2 => 1..20_usize, 1 => 1..10_000_usize];
    let carried = prop_oneof![
        4 => Just(None),
        1 => (0..4_000_000_u64, 0..1_u64 << 40).prop_map(|(ahead, rest)| Some([ahead, rest])),
        1 => (0..1_u64 << 50, 0..u64::MAX).prop_map(|(ahead, rest)| Some([ahead, rest])),
    ];
    let keys = proptest::sample::subsequence((0..quotas).collect::<Vec<_>>(), 1..=3);
    let counts = (keys, proptest::collection::vec(carried, 3));
    let counts = counts.prop_map(|(keys, carried)| keys.into_iter().zip(carried).collect());
    let identities = prop_oneof![2 => Just(1_usize), 1 => 2..4_usize];
    let act = (operation, cost, times, identities, counts);
    let act = act.prop_map(|(operation, cost, times, identities, counts)| Act {
        operation,
        cost,
        times,
        identities,
        counts,
    });
    let passed = prop_oneof![
        4 => 0..500_000_i64,
        2 => -500_000..0_i64,
        2 => 0..10_000_000_i64,
        1 => Just(0_i64),
        1 => -86_400_000_000..86_400_000_000_i64,
        1 => (-4..4_i64).prop_map(|windows| windows * (1_000 << 21)),
        1 => -300_000_000_000_000..300_000_000_000_000_i64,
    ];
    let call = proptest::collection::vec(act, 1..5);
    proptest::collection::vec((passed, call), 1..30)
}

/// The same keys as the script sees them, decided by the pure steps.
#[derive(Default)]
struct Model(HashMap<(usize, usize), State>);

impl Model {
    /// What the script should say of an identity's entry.
    fn act(&mut self, act: &Act, who: usize, now: u64) -> (usize, PerPolicy<State>) {
        let quotas = quotas();
        let before = act.counts.iter().map(|(key, carried)| {
            let state = self.0.get(&(who, *key)).copied().unwrap_or_default();
            let quota = quotas[*key];
            match carried_state(&quota, *carried) {
                Some(carried) => quota.join(state, quota.rebase(carried, ELSEWHERE, now), now),
                None => state,
            }
        });
        let before: PerPolicy<State> = before.collect();
        let mut charged = 0;
        let mut states = before.clone();
        let keys = || act.counts.iter().map(|(key, _)| quotas[*key]);
        match act.operation {
            Operation::Check => {
                while charged < act.times {
                    let steps = keys().zip(&states);
                    let steps = steps.map(|(quota, state)| quota.step(*state, now, act.cost));
                    let steps: PerPolicy<_> = steps.collect();
                    if !steps.iter().all(|(_, status)| status.is_allowed()) {
                        break;
                    }
                    states = steps.into_iter().map(|(state, _)| state).collect();
                    charged += 1;
                    if act.cost == 0 {
                        charged = act.times;
                    }
                }
                let looked = keys()
                    .zip(&states)
                    .map(|(quota, state)| quota.step(*state, now, 0).0);
                states = looked.collect();
            }
            Operation::Reset => states.fill(State::default()),
        }
        for ((key, _), state) in act.counts.iter().zip(states) {
            self.0.insert((who, *key), state);
        }
        (charged, before)
    }
}

/// By which clock what is carried was counted.
const ELSEWHERE: u64 = 1_234_567_890_123_456;

fn carried_state(quota: &Quota, words: Option<[u64; 2]>) -> Option<State> {
    let [ahead, rest] = words?;
    // As the quota itself would make it.
    let rest = match quota.encode() {
        EncodedQuota::TokenBucket { denominator, .. } => rest % denominator,
        EncodedQuota::Window { .. } => rest,
    };
    let state = State::from_words([ELSEWHERE + ahead, rest]);
    let state = quota.join(State::default(), state, ELSEWHERE);
    // What counts for nothing is not carried.
    (!state.is_expired(ELSEWHERE)).then_some(state)
}

fn entries_of(acts: &[Act]) -> impl Iterator<Item = (&Act, usize)> {
    let acts = acts.iter();
    acts.flat_map(|act| (0..act.identities).map(move |who| (act, who)))
}

/// Entries as the store would put them into calls, each of which has a key once.
fn questions(acts: &[Act], run: u64) -> Vec<Question> {
    let quotas = quotas();
    let mut questions = vec![Question::default()];
    for (act, who) in entries_of(acts) {
        let names = act
            .counts
            .iter()
            .map(|(key, _)| format!("{run}-{who}-{key}"));
        let names: Vec<_> = names.collect();
        let counts = act.counts.iter().map(|(key, carried)| {
            let quota = quotas[*key];
            let carried = carried_state(&quota, *carried);
            let joined = carried.and_then(|state| quota.encode_relative(state, ELSEWHERE));
            (quota, joined)
        });
        let group = Group {
            operation: act.operation,
            cost: act.cost,
            times: act.times,
            good_for: 0,
            counts: counts.collect(),
        };
        let asked = |key: &str| names.iter().any(|name| name == key);
        if questions[questions.len() - 1].keys.iter().any(asked) {
            questions.push(Question::default());
        }
        let last = questions.len() - 1;
        let question = &mut questions[last];
        for name in names {
            question.keys.add(|key| key.push_str(&name));
        }
        match question.groups.last_mut() {
            Some((alike, entries)) if *alike == group => *entries += 1,
            _ => question.groups.push((group, 1)),
        }
    }
    questions
}

#[test]
fn the_script_decides_whatever_comes_as_the_pure_steps_do() {
    let runtime = Runtime::new().expect("a runtime");
    let server = runtime.block_on(Server::start());
    let connection = runtime.block_on(connect(&server));
    let script = Script::with_clock_in(CLOCK);
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let runs = AtomicU64::new(0);
    let outcome = runner.run(&acts(), |calls| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        let mut connection = connection.clone();
        let mut model = Model::default();
        let mut now: u64 = 2_000_000_000_000_000;
        for (passed, acts) in calls {
            now = now.saturating_add_signed(passed);
            let mut entries = Vec::new();
            for question in questions(&acts, run) {
                let call = script.call(&question, now, true);
                let reply = runtime.block_on(async {
                    let set: Result<i64, _> = set_clock(now).query_async(&mut connection).await;
                    set.expect("the clock is set");
                    connection
                        .send_packed_command(&call)
                        .await
                        .expect("a reply")
                });
                let answer = script::read(&question, Some(reply.clone()));
                let answer = answer.unwrap_or_else(|refusal| panic!("{refusal:?}: {reply:?}"));
                prop_assert_eq!(answer.now, now);
                prop_assert_eq!(answer.refusal, None);
                entries.extend(answer.entries);
            }
            prop_assert_eq!(entries_of(&acts).count(), entries.len());
            for ((act, who), entry) in entries_of(&acts).zip(entries) {
                let charged = entry.expect("no flaw");
                let (times, before) = model.act(act, who, now);
                prop_assert_eq!(charged.times, times, "{:?}", act);
                for ((key, _), (lua, rust)) in
                    act.counts.iter().zip(charged.before.iter().zip(&before))
                {
                    // What counts no more is the same, whatever it says.
                    let quota = quotas()[*key];
                    let [lua, rust] =
                        [lua, rust].map(|state| quota.join(State::default(), *state, now));
                    prop_assert_eq!(lua, rust, "{:?} {:?}", act, key);
                }
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A proxy's policy may change under an open connection.
#[test]
fn cross_slot_error_is_learned_after_connecting() {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = Server::start_with(&["--cluster-enabled", "yes"]).await;
        server.serve_all_slots().await;
        let store = RedisStore::new(&server.url()).expect("a URL");
        store.ping().await.expect("one node has all slots");
        let Servers::One(links) = &store.core.servers else {
            unreachable!("it is one server");
        };
        assert!(links[0].separate.swap(false, Ordering::Relaxed));

        let limits = Limits::from(Quota::per_day(10));
        let identities: Vec<_> = (0..40).map(|i| Identity::user(&i.to_string())).collect();
        let checks = identities.iter().map(|who| Check::new(who, &limits));
        let answers: Vec<_> = checks.map(|check| store.check(&check)).collect();
        for answer in answers {
            assert!(answer.wait().await.expect("asked again").is_allowed());
        }
        assert!(links[0].separate.load(Ordering::Relaxed));
    });
}

/// How often a check is allowed in a row.
async fn allowed_at_once(store: &Clocked, check: &Check<'_>) -> u32 {
    let mut times = 0;
    while store
        .check(check)
        .wait()
        .await
        .expect("a verdict")
        .is_allowed()
    {
        times += 1;
    }
    times
}

/// The table of the guide on Redis, "When the server's clock is wrong".
#[tokio::test]
async fn counts_from_a_clock_that_was_ahead_are_bounded() {
    const MINUTE: u64 = 60_000_000;
    const HOUR: u64 = 60 * MINUTE;
    let server = Server::start().await;
    let store = Clocked::new(&server).await;
    // A minute past the hour, so that a glitch of half an hour is in the same window.
    let now = store.clock.now();
    let now = now - now % HOUR + MINUTE;
    for (glitch, [bucket, sliding, fixed]) in [
        (10 * MINUTE, [5, 5, 5]),
        (30 * MINUTE, [4, 5, 5]),
        (24 * HOUR, [0, 9, 9]),
    ] {
        let hour = Duration::from_secs(3_600);
        for (quota, expected) in [
            (Quota::per_hour(10), bucket),
            (Quota::sliding_window(10, hour), sliding),
            (Quota::fixed_window(10, hour), fixed),
        ] {
            let (who, limits) = (Identity::user(&glitch.to_string()), Limits::from(quota));
            let check = Check::new(&who, &limits);
            let check_at = async |time| {
                store.clock.set(time);
                store.check(&check).wait().await.expect("a verdict")
            };
            for _ in 0..4 {
                assert!(check_at(now).await.is_allowed());
            }
            assert!(check_at(now + glitch).await.is_allowed());
            store.clock.set(now);
            let allowed = allowed_at_once(&store, &check).await;
            assert_eq!(allowed, expected, "{quota} after {glitch} µs");
            if quota == Quota::per_hour(10) {
                assert!(!check_at(now + 6 * MINUTE - 1).await.is_allowed());
                assert!(check_at(now + 6 * MINUTE).await.is_allowed());
            }
        }
    }
}
