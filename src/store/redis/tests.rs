//! Compares the script, run by a real server with the clock in a key, with the algorithms in Rust.

#[expect(clippy::unwrap_used, reason = "these are tests")]
#[path = "../../../tests/support/redis/mod.rs"]
pub(super) mod servers;
#[expect(clippy::unwrap_used, reason = "these are tests")]
#[path = "../../../tests/support/vectors.rs"]
mod vectors;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, cmd};
use servers::Server;
use tokio::runtime::Runtime;

use super::RedisStore;
use super::endpoint::Endpoint;
use super::fingerprint::Fingerprint;
use super::script::{Group, Operation, Script, ScriptInput, decode};
use super::server_queue::ServerQueue;
use super::single_server::SingleServer;
use crate::clock::{Clock, ManualClock};
use crate::identity::Identity;
use crate::quota::{EncodedQuota, Limits, Quota, State};
use crate::store::conformance;
use crate::store::verdict::PerPolicy;
use crate::store::{Check, Outcome, Store, Verdict};

pub(super) const CLOCK: &str = "clock";

pub(super) async fn connect(server: &Server) -> MultiplexedConnection {
    let client = Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    connection.expect("a server")
}

pub(super) fn set_clock(now: u64) -> Cmd {
    let mut command = cmd("HSET");
    command.arg(CLOCK).arg("seconds").arg(now / 1_000_000);
    command.arg("microseconds").arg(now % 1_000_000);
    command
}

/// A store whose script reads a manual clock. Bypasses the denial cache, which uses real time.
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

    fn submit<T: 'static>(
        &self,
        operation: Operation,
        check: &Check<'_>,
        convert: fn(Verdict) -> T,
    ) -> Outcome<T> {
        let (clocked, check) = (self.clone(), check.into_owned());
        Outcome::Pending(Box::pin(async move {
            let mut connection = clocked.connection;
            let set: Result<i64, _> = set_clock(clocked.clock.now())
                .query_async(&mut connection)
                .await;
            set.expect("the clock is set");
            let check = check.borrow();
            let fingerprint = Fingerprint::new(&check);
            let reply = clocked.store.submit(operation, &check, fingerprint, false);
            reply.wait().await.map(convert)
        }))
    }
}

impl Store for Clocked {
    fn check(&self, check: &Check<'_>) -> Outcome {
        self.submit(Operation::Check, check, |verdict| verdict)
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        self.submit(Operation::Reset, check, drop)
    }
}

#[tokio::test]
async fn script_passes_conformance_with_manual_clock() {
    let server = Server::start().await;
    let store = Clocked::new(&server).await;
    let clock = store.clock.clone();
    conformance::check_with_clock(store, &clock).await;
}

#[tokio::test]
async fn script_passes_all_vectors() {
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

/// Quotas of all algorithms. The products of some are as near to 2^53 as possible.
fn quotas() -> Vec<Quota> {
    let day = Duration::from_secs(86_400);
    vec![
        Quota::per_second(3),
        // A token takes whole microseconds, so the script uses INCRBY.
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
        Quota::per_second(10).burst(1).queue(20),
        Quota::token_bucket(7, Duration::from_secs(3)).queue(5),
        Quota::per_second(1_000_000).queue(3_600_000_000),
        Quota::per_second(47_453_111).queue(142_000_000),
    ]
}

/// An operation on one or more identities.
#[derive(Clone, Debug)]
struct Action {
    operation: Operation,
    cost: u32,
    max_wait: Duration,
    times: usize,
    identities: usize,
    /// Indexes into `quotas()`, each with the words of a state to join.
    policies: Vec<(usize, Option<[u64; 2]>)>,
}

/// Batches of actions, each after the clock has moved by some microseconds.
fn batches() -> impl Strategy<Value = Vec<(i64, Vec<Action>)>> {
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
    let max_wait = prop_oneof![
        2 => Just(Duration::ZERO),
        2 => Just(Duration::MAX),
        2 => (0..4_000_000_u64).prop_map(Duration::from_micros),
    ];
    let fallback = prop_oneof![
        4 => Just(None),
        1 => (0..4_000_000_u64, 0..1_u64 << 40).prop_map(|(ahead, rest)| Some([ahead, rest])),
        1 => (0..1_u64 << 50, 0..u64::MAX).prop_map(|(ahead, rest)| Some([ahead, rest])),
    ];
    let indexes = proptest::sample::subsequence((0..quotas).collect::<Vec<_>>(), 1..=3);
    let policies = (indexes, proptest::collection::vec(fallback, 3));
    let policies =
        policies.prop_map(|(indexes, fallback)| indexes.into_iter().zip(fallback).collect());
    let identities = prop_oneof![2 => Just(1_usize), 1 => 2..4_usize];
    let action = (operation, cost, max_wait, times, identities, policies);
    let action =
        action.prop_map(
            |(operation, cost, max_wait, times, identities, policies)| Action {
                operation,
                cost,
                max_wait,
                times,
                identities,
                policies,
            },
        );
    let elapsed = prop_oneof![
        4 => 0..500_000_i64,
        2 => -500_000..0_i64,
        2 => 0..10_000_000_i64,
        1 => Just(0_i64),
        1 => -86_400_000_000..86_400_000_000_i64,
        1 => (-4..4_i64).prop_map(|windows| windows * (1_000 << 21)),
        1 => -300_000_000_000_000..300_000_000_000_000_i64,
    ];
    let batch = proptest::collection::vec(action, 1..5);
    proptest::collection::vec((elapsed, batch), 1..30)
}

/// The identity that a quota counts. All identities share the count of some quotas, as the users of an
/// organisation do.
fn counted(identity: usize, index: usize) -> usize {
    if index.is_multiple_of(4) { 0 } else { identity }
}

/// The states of identities under `quotas()`, decided in Rust.
#[derive(Default)]
struct Model(HashMap<(usize, usize), State>);

impl Model {
    /// Returns the number of charges, and the states before them.
    fn apply(&mut self, action: &Action, identity: usize, now: u64) -> (usize, PerPolicy<State>) {
        let quotas = quotas();
        let before = action.policies.iter().map(|(index, fallback)| {
            let key = (counted(identity, *index), *index);
            let state = self.0.get(&key).copied().unwrap_or_default();
            let quota = quotas[*index];
            match fallback_state(&quota, *fallback) {
                Some(fallback) => quota.join(state, quota.rebase(fallback, FALLBACK_NOW, now), now),
                None => state,
            }
        });
        let before: PerPolicy<State> = before.collect();
        let mut charged = 0;
        let mut states = before.clone();
        let action_quotas = || action.policies.iter().map(|(index, _)| quotas[*index]);
        match action.operation {
            Operation::Check => {
                while charged < action.times {
                    let steps = action_quotas().zip(&states);
                    let steps = steps.map(|(quota, state)| {
                        quota.step_within(*state, now, action.cost, action.max_wait)
                    });
                    let steps: PerPolicy<_> = steps.collect();
                    if !steps.iter().all(|(_, status)| status.is_allowed()) {
                        break;
                    }
                    states = steps.into_iter().map(|(state, _)| state).collect();
                    charged += 1;
                    if action.cost == 0 {
                        charged = action.times;
                    }
                }
                let viewed = action_quotas()
                    .zip(&states)
                    .map(|(quota, state)| quota.step(*state, now, 0).0);
                states = viewed.collect();
            }
            _ => states.fill(State::default()),
        }
        for ((index, _), state) in action.policies.iter().zip(states) {
            self.0.insert((counted(identity, *index), *index), state);
        }
        (charged, before)
    }
}

/// The time of the fallback states, by another clock.
const FALLBACK_NOW: u64 = 1_234_567_890_123_456;

fn fallback_state(quota: &Quota, words: Option<[u64; 2]>) -> Option<State> {
    let [ahead, rest] = words?;
    // Below the quota's denominator, as a real state is.
    let rest = match quota.encode() {
        EncodedQuota::TokenBucket { denominator, .. }
        | EncodedQuota::Reserving { denominator, .. } => rest % denominator,
        EncodedQuota::Window { .. } => rest,
    };
    let state = State::from_words([FALLBACK_NOW + ahead, rest]);
    let state = quota.join(State::default(), state, FALLBACK_NOW);
    // An expired state is not fallback.
    (!state.is_expired(FALLBACK_NOW)).then_some(state)
}

fn items_of(actions: &[Action]) -> impl Iterator<Item = (&Action, usize)> {
    let actions = actions.iter();
    actions.flat_map(|action| (0..action.identities).map(move |identity| (action, identity)))
}

/// Builds one call of all batch items, of which several may share a key.
fn input(actions: &[Action], run: u64) -> ScriptInput {
    let quotas = quotas();
    let mut input = ScriptInput::default();
    for (action, identity) in items_of(actions) {
        for (index, _) in &action.policies {
            let identity = counted(identity, *index);
            let hash = (identity as u128) << 64 | *index as u128;
            let name = format!("{run}-{identity}-{index}");
            input.keys.add(hash, |key| key.push_str(&name));
        }
        let policies = action.policies.iter().map(|(index, fallback)| {
            let quota = quotas[*index];
            let fallback = fallback_state(&quota, *fallback);
            let joined = fallback.and_then(|state| quota.encode_relative(state, FALLBACK_NOW));
            (quota, joined)
        });
        let group = Group {
            operation: action.operation,
            cost: action.cost,
            max_wait: action.max_wait,
            times: action.times,
            marks: PerPolicy::new(),
            valid_for: 0,
            policies: policies.collect(),
        };
        match input.groups.last_mut() {
            Some((last_group, items)) if *last_group == group => *items += 1,
            _ => input.groups.push((group, 1)),
        }
    }
    input
}

#[test]
fn script_decides_random_batches_as_rust_does() {
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
    let outcome = runner.run(&batches(), |batches| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        let mut connection = connection.clone();
        let mut model = Model::default();
        let mut now: u64 = 2_000_000_000_000_000;
        for (elapsed, actions) in batches {
            now = now.saturating_add_signed(elapsed);
            let input = input(&actions, run);
            let command = script.command(&input, now, true);
            let reply = runtime.block_on(async {
                let set: Result<i64, _> = set_clock(now).query_async(&mut connection).await;
                set.expect("the clock is set");
                connection
                    .send_packed_command(&command)
                    .await
                    .expect("a reply")
            });
            let decoded = decode(&input, Some(reply.clone()));
            let decoded = decoded.unwrap_or_else(|error| panic!("{error:?}: {reply:?}"));
            prop_assert_eq!(decoded.now, now);
            prop_assert_eq!(decoded.error, None);
            let items = decoded.items;
            prop_assert_eq!(items_of(&actions).count(), items.len());
            for ((action, identity), item) in items_of(&actions).zip(items) {
                let decided = item.expect("the item is decided");
                let (charged, states) = model.apply(action, identity, now);
                prop_assert_eq!(decided.charged, charged, "{:?}", action);
                for ((index, _), (lua, rust)) in action
                    .policies
                    .iter()
                    .zip(decided.states.iter().zip(&states))
                {
                    // Expired states may differ, and are equal to no state: `join` normalizes them.
                    let quota = quotas()[*index];
                    let [lua, rust] =
                        [lua, rust].map(|state| quota.join(State::default(), *state, now));
                    prop_assert_eq!(lua, rust, "{:?} {:?}", action, index);
                }
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// The server behind a proxy may become a cluster while the connection is open.
#[test]
fn cross_slot_error_after_connecting_separates_identities() {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = Server::start_with(&["--cluster-enabled", "yes"]).await;
        server.serve_all_slots().await;
        let endpoint = Box::new(Endpoint::at_url(&server.url()));
        let queue = ServerQueue::new(super::server::Server::Single(endpoint), false);
        let queue = Arc::new(queue);
        let topology = SingleServer {
            queues: vec![queue.clone()],
        };
        let builder = RedisStore::builder(&server.url());
        let store = builder.build_on(Box::new(topology), Script::new());
        store.ping().await.expect("one node has all slots");
        assert!(queue.one_identity_per_call.swap(false, Ordering::Relaxed));

        let limits = Limits::from(Quota::per_day(10));
        let identities: Vec<_> = (0..40).map(|i| Identity::user(&i.to_string())).collect();
        let checks = identities
            .iter()
            .map(|identity| Check::new(identity, &limits));
        let answers: Vec<_> = checks.map(|check| store.check(&check)).collect();
        for answer in answers {
            assert!(answer.wait().await.expect("sent again").is_allowed());
        }
        assert!(queue.one_identity_per_call());
    });
}

/// Repeats a check until it is denied. Returns how many times it was allowed.
async fn allowed_in_a_row(store: &Clocked, check: &Check<'_>) -> u32 {
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

/// The table in "When the server's clock is wrong" of the guide on Redis.
#[tokio::test]
async fn state_from_a_clock_that_was_ahead_is_bounded() {
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
            let identity = Identity::user(&glitch.to_string());
            let limits = Limits::from(quota);
            let check = Check::new(&identity, &limits);
            let check_at = async |time| {
                store.clock.set(time);
                store.check(&check).wait().await.expect("a verdict")
            };
            for _ in 0..4 {
                assert!(check_at(now).await.is_allowed());
            }
            assert!(check_at(now + glitch).await.is_allowed());
            store.clock.set(now);
            let allowed = allowed_in_a_row(&store, &check).await;
            assert_eq!(allowed, expected, "{quota} after {glitch} µs");
            if quota == Quota::per_hour(10) {
                assert!(!check_at(now + 6 * MINUTE - 1).await.is_allowed());
                assert!(check_at(now + 6 * MINUTE).await.is_allowed());
            }
        }
    }
}
