//! Compares the script's reservations with exact fractions, on a real server with the clock in a key.

#[expect(dead_code, reason = "windows are tested in the process")]
#[path = "../../../tests/support/final_costs.rs"]
mod final_costs;

use std::time::Duration;

use final_costs::{Event, Random, conforms_to_bucket};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};

use super::script::{DecidedItem, Group, Operation, Script, ScriptInput, decode};
use super::tests::{CLOCK, connect, servers::Server, set_clock};
use crate::quota::Quota;
use crate::store::verdict::PerPolicy;

/// The numbers of a token bucket that reserves.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    limit: u32,
    /// Microseconds.
    period: u64,
    burst: u32,
    /// Microseconds.
    ttl: u64,
}

impl Numbers {
    fn random(random: &mut Random) -> Self {
        Self {
            limit: 1 + random.below(8) as u32,
            period: 100_000 * (1 + random.below(40)),
            burst: 1 + random.below(8) as u32,
            ttl: 1_000_000 * (1 + random.below(4)),
        }
    }

    fn quota(&self) -> Quota {
        Quota::token_bucket(self.limit, Duration::from_micros(self.period))
            .burst(self.burst)
            .reserve_for(Duration::from_micros(self.ttl))
    }
}

/// A bucket with two generations of reservations. Instants of the debt are in units of `1 / limit`
/// microseconds, in which every price is a whole number.
#[derive(Clone)]
struct Model {
    numbers: Numbers,
    full_at: u128,
    generation: u64,
    started: u64,
    previous: u32,
    current: u32,
    /// The costs that have lapsed, and when.
    lapsed: Vec<Event>,
}

impl Model {
    fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            full_at: 0,
            generation: 0,
            started: 0,
            previous: 0,
            current: 0,
            lapsed: Vec::new(),
        }
    }

    fn units(&self, instant: u64) -> u128 {
        u128::from(instant) * u128::from(self.numbers.limit)
    }

    fn price(&self, cost: u32) -> u128 {
        u128::from(cost) * u128::from(self.numbers.period)
    }

    fn charge(&mut self, at: u64, now: u64, cost: u32) {
        if cost > 0 {
            let cost = cost.min(2 * self.numbers.burst);
            self.full_at = self.full_at.max(self.units(at)) + self.price(cost);
            self.clamp(now);
        }
    }

    fn clamp(&mut self, now: u64) {
        let largest = self.units(now) + self.price(2 * self.numbers.burst);
        self.full_at = self.full_at.min(largest);
    }

    fn roll(&mut self, now: u64) {
        if self.generation == 0 {
            (self.generation, self.started) = (now, now);
        }
        if now < self.started {
            self.generation += 1;
            self.started = now;
            let reserved = self.previous + self.current;
            self.previous = reserved.min(2 * self.numbers.burst);
            self.current = 0;
        }
        while now - self.started >= self.numbers.ttl && self.reserved() > 0 {
            self.generation += 1;
            self.started += self.numbers.ttl;
            let lapsed = self.previous;
            if lapsed > 0 {
                self.lapsed.push((self.started, lapsed));
            }
            self.charge(self.started, now, lapsed);
            (self.previous, self.current) = (self.current, 0);
        }
        if now - self.started >= self.numbers.ttl {
            (self.generation, self.started) = (self.generation + 1, now);
        }
    }

    fn reserved(&self) -> u32 {
        self.previous + self.current
    }

    fn reserve(&mut self, now: u64, cost: u32) -> bool {
        self.clamp(now);
        let debt = self.full_at.saturating_sub(self.units(now));
        let reserved = self.reserved() + cost;
        let fits = debt + self.price(reserved) <= self.price(self.numbers.burst);
        if fits {
            self.current += cost;
        }
        fits
    }

    fn settle(&mut self, now: u64, mark: u64, cost: u32, used: u32) -> bool {
        if mark == self.generation {
            self.current = self.current.saturating_sub(cost);
        } else if mark + 1 == self.generation {
            self.previous = self.previous.saturating_sub(cost);
        } else if mark < self.generation && self.generation < mark + 16 {
            return false;
        }
        self.charge(now, now, used);
        true
    }

    fn renew(&mut self, mark: u64, cost: u32) {
        if mark != self.generation {
            if mark + 1 == self.generation {
                self.previous = self.previous.saturating_sub(cost);
            }
            self.current = (self.current + cost).min(2 * self.numbers.burst);
        }
    }
}

/// The script on a server, and the key of one state.
struct Subject {
    connection: MultiplexedConnection,
    script: Script,
}

impl Subject {
    async fn run(&mut self, key: &str, now: u64, group: Group) -> DecidedItem {
        let mut input = ScriptInput::default();
        input.keys.add(0, |text| text.push_str(key));
        input.groups.push((group, 1));
        let mut pipeline = Pipeline::new();
        pipeline.add_command(set_clock(now));
        pipeline.add_command(self.script.command(&input, now, true));
        let replies = self.connection.send_packed_commands(&pipeline, 0, 2).await;
        let reply: Option<Value> = replies.expect("two replies").pop();
        let mut reply = decode(&input, reply).expect("a valid reply");
        assert_eq!(reply.error, None);
        let item = reply.items.pop().expect("one item");
        item.expect("the item is decided")
    }
}

/// A reservation that is not settled.
struct Open {
    mark: u64,
    cost: u32,
    at: u64,
}

#[tokio::test]
async fn reservations_agree_with_exact_fractions() {
    let server = Server::start().await;
    let mut subject = Subject {
        connection: connect(&server).await,
        script: Script::with_clock_in(CLOCK),
    };
    for seed in 0..5_000 {
        let mut random = Random(seed);
        let numbers = Numbers::random(&mut random);
        let (quota, key) = (numbers.quota(), format!("reservations-{seed}"));
        let steps_back = random.below(4) == 0;
        // A clock that steps back moves charges, and a renewal after a lapse reserves a cost again.
        let mut exceeds = steps_back;
        let mut model = Model::new(numbers);
        let mut now = 2_000_000_000_000_000;
        let mut open: Vec<Open> = Vec::new();
        let (mut settled, mut admitted) = (Vec::new(), Vec::new());
        for _ in 0..4 + random.below(16) {
            now += random.below(2_000_000);
            if steps_back && random.below(4) == 0 {
                now -= random.below(5_000_000);
            }
            // An operation that changes nothing does not write that generations have ended.
            let unchanged = model.clone();
            model.roll(now);
            let choice = random.below(8);
            let index = random.below(open.len().max(1) as u64) as usize;
            let (operation, cost, times, mark) = match open.get(index) {
                Some(Open { mark, cost, .. }) if choice < 3 => (
                    Operation::Settle,
                    *cost,
                    random.below(u64::from(*cost) + 1),
                    *mark,
                ),
                Some(Open { mark, cost, .. }) if choice == 3 => (Operation::Renew, *cost, 1, *mark),
                _ => {
                    let cost = 1 + random.below(u64::from(numbers.burst)) as u32;
                    (Operation::Reserve, cost, 1, 0)
                }
            };
            let marks = match operation {
                Operation::Reserve => PerPolicy::new(),
                _ => PerPolicy::from_slice(&[mark]),
            };
            let group = Group {
                operation,
                cost,
                max_wait: Duration::ZERO,
                times: times as usize,
                marks,
                valid_for: 0,
                policies: PerPolicy::from_iter([(quota, None)]),
            };
            let before = (model.reserved(), model.full_at.max(model.units(now)));
            let decided = subject.run(&key, now, group).await;

            let case = format!("{quota}, seed {seed}, {operation:?} {cost} at {now}");
            let state = decided.states[0];
            let [until, rest] = state.with_reserved(0).words();
            let fraction =
                u128::from(rest) * u128::from(numbers.limit) / u128::from(denominator(&quota));
            let full_at = (model.units(until) + fraction).max(model.units(now));
            let largest = model.units(now) + model.price(2 * numbers.burst);
            assert_eq!(
                (state.reserved(), full_at.min(largest)),
                (before.0, before.1.min(largest)),
                "{case}"
            );
            let mut is_unchanged = false;
            match operation {
                Operation::Reserve => {
                    let full_at = model.full_at;
                    let is_allowed = model.reserve(now, cost);
                    is_unchanged = !is_allowed && model.full_at == full_at;
                    assert_eq!(decided.charged == 1, is_allowed, "{case}");
                    if is_allowed {
                        let mark = model.generation;
                        open.push(Open {
                            mark,
                            cost,
                            at: now,
                        });
                    }
                }
                Operation::Settle => {
                    let reservation = open.swap_remove(index);
                    let used = times as u32;
                    if model.settle(now, mark, cost, used) {
                        settled.push((now, used));
                        admitted.push((reservation.at, used));
                    } else {
                        admitted.push((reservation.at, cost));
                        is_unchanged = true;
                    }
                }
                _ => {
                    is_unchanged = mark == model.generation;
                    exceeds |= mark + 1 < model.generation;
                    model.renew(mark, cost);
                    open[index].mark = model.generation;
                }
            }
            assert_eq!(decided.generations[0], model.generation, "{case}");
            if is_unchanged {
                model = unchanged;
            }
        }
        model.roll(now);
        settled.extend(model.lapsed);
        let conforms = |events: Vec<Event>| {
            let period = Duration::from_micros(numbers.period);
            conforms_to_bucket(events, numbers.limit, period, numbers.burst)
        };
        if !exceeds {
            assert!(conforms(settled), "{quota}, seed {seed}: settled");
            assert!(conforms(admitted), "{quota}, seed {seed}: admitted");
        }
    }
}

fn denominator(quota: &Quota) -> u64 {
    match quota.encode() {
        crate::quota::EncodedQuota::Reserving { denominator, .. } => denominator,
        _ => unreachable!("the quota reserves"),
    }
}
