//! Times what the `RedisStore` does in the process for a round trip, without the round trip itself.
//!
//! ```sh
//! cargo bench --bench redis_steps --features bench
//! ```

use divan::Bencher;
use divan::counter::ItemsCount;
use tollgate::bench::RedisSteps;
use tollgate::store::OwnedCheck;
use tollgate::{Check, Identity, Limits, Policy, Quota};

/// The numbers of checks in a batch, which share a round trip.
const SIZES: [usize; 3] = [1, 16, 128];

fn main() {
    divan::main();
}

/// Returns limits with one or two policies.
fn limits(policies: usize) -> Limits {
    let quotas = [Quota::per_second(10), Quota::per_day(10_000)];
    let named = ["burst", "daily"].into_iter().zip(quotas).take(policies);
    Limits::new(named.map(|(name, quota)| Policy::new(name, quota))).expect("two names")
}

/// Returns checks of different identities.
fn checks(size: usize) -> Vec<OwnedCheck> {
    let limits = limits(1);
    let address = |last: usize| Identity::ip([203, 0, 113, last as u8].into());
    let checks = (0..size).map(|last| Check::new(&address(last), &limits).into_owned());
    checks.collect()
}

/// Builds the keys in Redis of a check with one or two policies.
#[divan::bench(args = [1, 2])]
fn keys(bencher: Bencher<'_, '_>, policies: usize) {
    let (identity, limits) = (Identity::user("42"), limits(policies));
    bencher.bench(|| RedisSteps::keys(&Check::new(&identity, &limits)));
}

/// Turns pending checks into the bytes of a command.
#[divan::bench(args = SIZES)]
fn build_a_batch(bencher: Bencher<'_, '_>, size: usize) {
    let (steps, checks) = (RedisSteps::new(), checks(size));
    bencher
        .counter(ItemsCount::new(size))
        .with_inputs(|| steps.queue(&checks))
        .bench_refs(|queue| steps.batch(queue));
}

/// Reads the verdicts from the reply to a batch.
#[divan::bench(args = SIZES)]
fn read_the_reply(bencher: Bencher<'_, '_>, size: usize) {
    let steps = RedisSteps::new();
    let batch = steps.batch(&mut steps.queue(&checks(size)));
    let (call, _) = &batch[0];
    let reply = call.reply();
    bencher
        .counter(ItemsCount::new(size))
        .with_inputs(|| reply.clone())
        .bench_values(|reply| call.decode(reply));
}
