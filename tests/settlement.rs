//! Charges are settled at the cost that was used, and no interval is over the limit at final costs.

#[path = "support/final_costs.rs"]
mod final_costs;

use std::time::Duration;

use final_costs::{Event, Random, conforms_to_bucket, conforms_to_window};
use futures_util::FutureExt;
use tollgate::test_util::ManualClock;
use tollgate::{
    Check, Clock, Denied, Identity, Limiter, Limits, LocalStore, Permit, Policy, Quota,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A limiter on a store in this process, which decides at once.
struct Local {
    limiter: Limiter,
    clock: ManualClock,
    identity: Identity,
}

impl Local {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self {
            limiter: LocalStore::with_capacity(8).clock(clock.clone()).into(),
            clock,
            identity: Identity::user("alice"),
        }
    }

    fn acquire(&self, limits: &Limits, cost: u32) -> Result<Permit, Denied> {
        let check = Check::new(&self.identity, limits).cost(cost);
        self.limiter
            .acquire(&check)
            .now_or_never()
            .expect("a store that never waits")
    }

    fn remaining(&self, limits: &Limits) -> u32 {
        let check = Check::new(&self.identity, limits);
        self.limiter
            .peek(&check)
            .into_future()
            .now_or_never()
            .expect("a store that never waits")
            .remaining()
    }

    fn reset(&self, limits: &Limits) {
        let check = Check::new(&self.identity, limits);
        let reset = self.limiter.reset(&check).now_or_never();
        reset
            .expect("a store that never waits")
            .expect("a store that cannot fail");
    }
}

#[test]
fn refund_returns_the_charge_to_its_window() {
    let local = Local::new();
    for quota in [
        Quota::fixed_window(5, MINUTE),
        Quota::sliding_window(5, MINUTE),
    ] {
        let limits = Limits::from(quota);
        let permits = [(); 5].map(|()| local.acquire(&limits, 1).expect("the limit is 5"));
        assert!(local.acquire(&limits, 1).is_err(), "{quota}");
        for permit in permits {
            permit.refund();
        }
        assert_eq!(local.remaining(&limits), 5, "{quota}");
    }
}

#[test]
fn dropped_permit_stays_charged() {
    let local = Local::new();
    for quota in [
        Quota::fixed_window(5, MINUTE),
        Quota::per_minute(5).reserve_for(MINUTE),
        Quota::per_minute(5),
    ] {
        let limits = Limits::from(quota);
        drop(local.acquire(&limits, 2));
        assert_eq!(local.remaining(&limits), 3, "{quota}");
    }
}

#[test]
fn plain_token_bucket_gives_nothing_back() {
    let local = Local::new();
    let limits = Limits::from(Quota::per_minute(5));
    local
        .acquire(&limits, 2)
        .expect("the bucket is full")
        .refund();
    assert_eq!(local.remaining(&limits), 3);
}

#[test]
fn reservation_does_not_refill() {
    let local = Local::new();
    let limits = Limits::from(Quota::per_minute(10).reserve_for(MINUTE));
    let permit = local.acquire(&limits, 10).expect("the bucket is full");
    local.clock.advance(MINUTE);
    assert!(local.acquire(&limits, 1).is_err());
    permit.settle(4);
    assert_eq!(local.remaining(&limits), 6);
}

#[test]
fn sum_of_added_costs_is_settled() {
    let local = Local::new();
    let limits = Limits::from(Quota::per_minute(100).reserve_for(MINUTE));
    let permit = local.acquire(&limits, 50).expect("the bucket is full");
    let charge = permit.charge().clone();
    charge.add(3);
    charge.add(4);
    assert_eq!(charge.used(), 7);
    drop(permit);
    assert_eq!(local.remaining(&limits), 93);
}

#[test]
fn first_settlement_wins() {
    let local = Local::new();
    let limits = Limits::from(Quota::per_minute(100).reserve_for(MINUTE));
    let permit = local.acquire(&limits, 50).expect("the bucket is full");
    let charge = permit.charge().clone();
    charge.add(1);
    assert!(charge.settle(10));
    assert!(!charge.settle(20));
    permit.settle(30);
    assert!(!charge.refund(), "the charge has ended");
    assert_eq!(local.remaining(&limits), 90);
}

#[test]
fn cost_above_charge_is_capped_at_overdraft() {
    let local = Local::new();
    let quotas = [
        Quota::per_minute(10).reserve_for(MINUTE),
        Quota::sliding_window(10, MINUTE),
        Quota::fixed_window(10, MINUTE),
    ];
    for quota in quotas {
        let limits = Limits::from(quota);
        local
            .acquire(&limits, 1)
            .expect("nothing is charged")
            .settle(u32::MAX);
        assert!(local.acquire(&limits, 1).is_err(), "{quota}");
        local.clock.advance(3 * MINUTE);
        assert!(local.acquire(&limits, 10).is_ok(), "{quota}");
    }
}

#[test]
fn refund_after_the_window_has_ended_changes_nothing() {
    let local = Local::new();
    let limits = Limits::from(Quota::fixed_window(5, MINUTE));
    let early = local.acquire(&limits, 5).expect("nothing is charged");
    local.clock.advance(MINUTE);
    drop(local.acquire(&limits, 2));
    early.refund();
    assert_eq!(local.remaining(&limits), 3);
}

#[test]
fn reset_voids_open_charges() {
    let local = Local::new();
    for quota in [
        Quota::fixed_window(5, MINUTE),
        Quota::per_minute(5).reserve_for(MINUTE),
        Quota::concurrent(5),
    ] {
        let limits = Limits::from(quota);
        let before = local.acquire(&limits, 3).expect("nothing is charged");
        local.reset(&limits);
        assert_eq!(local.remaining(&limits), 5, "{quota}");
        let after = local.acquire(&limits, 5).expect("nothing is charged");
        before.refund();
        assert_eq!(local.remaining(&limits), 0, "{quota}");
        drop(after);
    }
}

#[test]
fn slots_are_free_when_the_last_permit_is_dropped() {
    let local = Local::new();
    let limits = Limits::from(Quota::concurrent(2));
    let first = local.acquire(&limits, 1).expect("two slots are free");
    let held = first.charge().hold();
    let second = local.acquire(&limits, 1).expect("one slot is free");
    let denied = local.acquire(&limits, 1).expect_err("no slot is free");
    assert_eq!(
        denied.decision().retry_after(),
        Some(Duration::from_secs(1))
    );
    drop(first);
    assert!(local.acquire(&limits, 1).is_err(), "`held` has the slot");
    drop(held);
    drop(second);
    assert!(local.acquire(&limits, 2).is_ok());
}

#[test]
fn permit_of_an_ended_charge_holds_nothing() {
    let local = Local::new();
    let limits = Limits::from(Quota::concurrent(1));
    let permit = local.acquire(&limits, 1).expect("the slot is free");
    let charge = permit.charge().clone();
    drop(permit);
    let late = charge.hold();
    assert!(local.acquire(&limits, 1).is_ok());
    drop(late);
    assert_eq!(local.remaining(&limits), 1);
}

#[test]
fn check_only_looks_for_a_free_slot() {
    let local = Local::new();
    let limits = Limits::from(Quota::concurrent(1));
    let check = Check::new(&local.identity, &limits);
    let check = || {
        local
            .limiter
            .check(&check)
            .into_future()
            .now_or_never()
            .expect("decided at once")
    };
    assert!(check().is_allowed());
    assert!(check().is_allowed());
    let permit = local.acquire(&limits, 1);
    assert!(!check().is_allowed());
    drop(permit);
    assert!(check().is_allowed());
}

#[test]
fn denied_policy_leaves_no_slot_taken() {
    let local = Local::new();
    let limits = Limits::new([
        Policy::new("slots", Quota::concurrent(5)),
        Policy::new("rate", Quota::fixed_window(1, MINUTE)),
    ]);
    let limits = limits.expect("two names");
    let permit = local.acquire(&limits, 1).expect("nothing is charged");
    assert!(local.acquire(&limits, 1).is_err());
    let slots = Limits::new([Policy::new("slots", Quota::concurrent(5))]).expect("one name");
    assert_eq!(local.remaining(&slots), 4);
    drop(permit);
    assert_eq!(local.remaining(&slots), 5);
}

/// An admitted charge of a history.
struct Admitted {
    permit: Option<Permit>,
    at: u64,
    cost: u32,
    /// The time of the settlement, and its cost.
    settled: Option<Event>,
}

/// Runs a random history of charges, settlements and resets. Returns what was admitted since the last
/// reset, with final costs.
fn history(random: &mut Random, local: &Local, limits: &Limits, step: u64) -> Vec<Admitted> {
    let capacity = u64::from(limits.policies()[0].quota().capacity());
    let mut charges: Vec<Admitted> = Vec::new();
    // Permits from before a reset, which settle nothing.
    let mut void: Vec<Permit> = Vec::new();
    for _ in 0..5 + random.below(40) {
        local
            .clock
            .advance(Duration::from_micros(random.below(step)));
        let at = local.clock.now();
        if random.below(30) == 0 {
            local.reset(limits);
            void.extend(charges.drain(..).filter_map(|charge| charge.permit));
        }
        if random.below(4) == 0
            && let Some(permit) = void.pop()
        {
            permit.settle(random.below(capacity) as u32);
        }
        let open = charges.iter_mut().filter(|charge| charge.permit.is_some());
        let mut open: Vec<_> = open.collect();
        if !open.is_empty() && random.below(2) == 0 {
            let index = random.below(open.len() as u64) as usize;
            let charge = &mut open[index];
            let used = random.below(u64::from(charge.cost) + 1) as u32;
            let permit = charge.permit.take().expect("an open charge");
            permit.settle(used);
            charge.settled = Some((at, used));
        } else {
            let cost = 1 + random.below(capacity) as u32;
            if let Ok(permit) = local.acquire(limits, cost) {
                let permit = Some(permit);
                charges.push(Admitted {
                    permit,
                    at,
                    cost,
                    settled: None,
                });
            }
        }
    }
    let at = local.clock.now();
    for charge in &mut charges {
        if charge.permit.take().is_some() {
            charge.settled = Some((at, charge.cost));
        }
    }
    charges
}

#[test]
fn reserving_bucket_never_exceeds_its_limit() {
    for seed in 0..50_000 {
        let mut random = Random(seed);
        let (limit, period) = (1 + random.below(12) as u32, 1 + random.below(1_000));
        let (period, burst) = (Duration::from_micros(period), 1 + random.below(12) as u32);
        let quota = Quota::token_bucket(limit, period)
            .burst(burst)
            .reserve_for(MINUTE);
        let local = Local::new();
        let charges = history(&mut random, &local, &quota.into(), 300);
        let settled = charges.iter().filter_map(|charge| charge.settled).collect();
        let admitted = charges.iter().map(|charge| {
            let (_, used) = charge.settled.expect("every charge was settled");
            (charge.at, used)
        });
        for events in [settled, admitted.collect()] {
            assert!(
                conforms_to_bucket(events, limit, period, burst),
                "{quota}, seed {seed}"
            );
        }
    }
}

#[test]
fn no_window_is_over_the_limit_at_final_costs() {
    for seed in 0..50_000 {
        let mut random = Random(seed);
        let limit = 1 + random.below(12) as u32;
        let period = Duration::from_millis(1 + random.below(20));
        let quota = match random.below(2) {
            0 => Quota::fixed_window(limit, period),
            _ => Quota::sliding_window(limit, period),
        };
        let local = Local::new();
        let charges = history(&mut random, &local, &quota.into(), 5_000);
        let events: Vec<Event> = charges
            .iter()
            .map(|charge| (charge.at, charge.settled.expect("settled").1))
            .collect();
        assert!(
            conforms_to_window(&events, limit, period),
            "{quota}, seed {seed}"
        );
    }
}

#[test]
fn concurrency_limit_has_exactly_its_slots() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let limit = 1 + random.below(6) as u32;
        let (local, limits) = (Local::new(), Limits::from(Quota::concurrent(limit)));
        let mut permits = Vec::new();
        let mut taken = 0;
        for _ in 0..30 {
            if !permits.is_empty() && random.below(2) == 0 {
                let (permit, cost) =
                    permits.swap_remove(random.below(permits.len() as u64) as usize);
                drop::<Permit>(permit);
                taken -= cost;
            } else {
                let cost = 1 + random.below(2) as u32;
                let permit = local.acquire(&limits, cost);
                assert_eq!(permit.is_ok(), taken + cost <= limit, "seed {seed}");
                if let Ok(permit) = permit {
                    taken += cost;
                    permits.push((permit, cost));
                }
            }
        }
    }
}
