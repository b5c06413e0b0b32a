//! The test suite that every store must pass.
//!
//! [`check`] tests any store, including a shared one: its identities are unique to each run.
//! [`check_with_clock`] compares a store that reads a [`ManualClock`] with the algorithms over time.
//!
//! ```
//! use tollgate::LocalStore;
//! use tollgate::store::conformance;
//! use tollgate::test_util::ManualClock;
//!
//! # #[tokio::main] async fn main() {
//! conformance::check(LocalStore::new()).await;
//!
//! let clock = ManualClock::new();
//! conformance::check_with_clock(LocalStore::new().clock(clock.clone()), &clock).await;
//! # }
//! ```

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::check::{Check, FallbackStates};
use super::receipt::Receipt;
use super::store::Store;
use super::verdict::PerPolicy;
use crate::clock::{Clock, ManualClock};
use crate::identity::Identity;
use crate::quota::{Kind, Limits, Policy, Quota, Scope, State, Status};

/// The kind of all identities of the suite.
const KIND: Kind = Kind::new("conformance");

/// A period in which nothing is refilled, and no window ends, while the suite runs.
const PERIOD: Duration = Duration::from_secs(3_650 * 86_400);

/// Returns a quota of each algorithm with a capacity of `limit`.
fn quotas(limit: u32) -> [Quota; 3] {
    [
        Quota::token_bucket(limit, PERIOD),
        Quota::sliding_window(limit, PERIOD),
        Quota::fixed_window(limit, PERIOD),
    ]
}

/// A quota that admits 10 at once and 10 that wait. A token takes three minutes, so that none is refilled
/// while the suite runs.
const QUEUE: Quota = Quota::token_bucket(20, Duration::from_secs(3_600))
    .burst(10)
    .queue(10);

/// The refill time of a token of [`QUEUE`], in microseconds.
const QUEUE_SPACING: u64 = 180_000_000;

/// Returns limits of these quotas, named `policy-0`, `policy-1` and so on.
fn limits_of(quotas: impl IntoIterator<Item = Quota>) -> Limits {
    let named = |(index, quota)| Policy::new(format!("policy-{index}"), quota);
    Limits::new(quotas.into_iter().enumerate().map(named)).expect("the limits are valid")
}

/// Tests that a store decides correctly.
///
/// # Panics
///
/// If it does not. The message says what was expected.
pub async fn check(store: impl Store) {
    for subject in Subject::new(store) {
        subject.decides_like_every_store().await;
    }
}

/// Tests that a store decides like [`Quota::step`] while its clock moves forward and back, under one
/// policy and under several.
///
/// # Panics
///
/// If it does not. The message names the first step that differs.
pub async fn check_with_clock(store: impl Store, clock: &ManualClock) {
    let second = Duration::from_secs(1);
    let plans = [
        vec![Quota::per_second(3)],
        vec![Quota::token_bucket(7, 3 * second).burst(20)],
        vec![Quota::sliding_window(10, second)],
        vec![Quota::fixed_window(10, second)],
        vec![Quota::token_bucket(7, 3 * second).burst(4).queue(9)],
        vec![
            Quota::per_second(3).burst(4).queue(6),
            Quota::sliding_window(20, 5 * second),
        ],
        vec![
            Quota::per_second(3).burst(5),
            Quota::sliding_window(20, 5 * second),
            Quota::fixed_window(50, 30 * second),
        ],
    ];
    for subject in Subject::new(store) {
        for plan in &plans {
            subject.matches_quota_steps(plan, clock).await;
        }
    }
}

#[derive(Clone)]
struct Subject {
    store: Arc<dyn Store>,
    /// Whether checks try [`Store::check_now`] first, as the limiter does.
    tries_check_now: bool,
    /// Part of each identity, so that runs on the same store do not share counts.
    run: u64,
}

/// The status of each policy after a check.
struct Statuses(PerPolicy<Status>);

impl Statuses {
    fn is_allowed(&self) -> bool {
        self.0.iter().all(Status::is_allowed)
    }

    /// Returns the remaining cost of the first policy.
    fn remaining(&self) -> u32 {
        self.0[0].remaining()
    }

    /// Returns `retry_after` of the first policy.
    fn retry_after(&self) -> Option<Duration> {
        self.0[0].retry_after()
    }
}

impl Subject {
    /// Creates a subject for each of the two methods that decide.
    fn new(store: impl Store) -> [Self; 2] {
        let store: Arc<dyn Store> = Arc::new(store);
        [false, true].map(|tries_check_now| Self {
            store: store.clone(),
            tries_check_now,
            run: RandomState::new().hash_one(0),
        })
    }

    async fn decides_like_every_store(&self) {
        for quota in quotas(10).into_iter().chain([QUEUE]) {
            self.admits_the_limit_and_no_more(quota).await;
            self.charges_nothing_when_it_denies(quota).await;
            self.handles_extreme_costs(quota).await;
            self.peek_charges_nothing(quota).await;
            self.reset_forgets_counts(quota).await;
            self.keeps_counts_separate(quota).await;
            self.joins_states_of_the_fallback(quota).await;
            self.concurrent_checks_admit_exactly_the_limit(quota).await;
        }
        self.queue_spaces_charges_evenly().await;
        self.queue_admits_within_the_maximum_wait().await;
        self.concurrent_checks_share_a_queue().await;
        if self.store.can_settle() {
            let [bucket, sliding, fixed] = quotas(10);
            let bucket = bucket.reserve_for(Duration::from_secs(86_400));
            for quota in [bucket, sliding, fixed, Quota::concurrent(10)] {
                self.settles_charges(quota).await;
                self.reset_voids_open_charges(quota).await;
                self.concurrent_reservations_admit_exactly_the_limit(quota)
                    .await;
            }
        }
        self.charges_all_policies_or_none().await;
        self.concurrent_checks_admit_the_tightest_limit().await;
        for quota in quotas(10) {
            self.identities_share_the_count_of_their_level(quota).await;
        }
    }

    fn identity(&self, test: &str, subject: impl std::fmt::Debug) -> Identity {
        Identity::new(&KIND, &format!("{:x}-{test}-{subject:?}", self.run))
    }

    async fn decide(&self, check: Check<'_>) -> Statuses {
        if self.tries_check_now
            && let Some(status) = self.store.check_now(&check)
        {
            return Statuses([status].into_iter().collect());
        }
        let verdict = self.store.check(&check).wait().await;
        let verdict =
            verdict.unwrap_or_else(|error| panic!("the store failed to decide {check:?}: {error}"));
        let statuses = check.replay(&verdict);
        Statuses(
            statuses
                .unwrap_or_else(|error| panic!("the verdict on {check:?} is invalid: {error:?}")),
        )
    }

    async fn admits_the_limit_and_no_more(&self, quota: Quota) {
        let (identity, limits) = (self.identity("limit", quota), Limits::from(quota));
        for left in (0..quota.capacity()).rev() {
            let decision = self.decide(Check::new(&identity, &limits)).await;
            assert!(
                decision.is_allowed(),
                "{quota}: denied with {} left",
                left + 1
            );
            assert_eq!(decision.remaining(), left, "{quota}: remaining");
        }
        let decision = self.decide(Check::new(&identity, &limits)).await;
        assert!(
            !decision.is_allowed(),
            "{quota}: admitted one over the limit"
        );
        assert!(
            decision.retry_after() > Some(Duration::ZERO),
            "{quota}: a denial without a wait"
        );
    }

    async fn charges_nothing_when_it_denies(&self, quota: Quota) {
        let (identity, limits) = (self.identity("denied", quota), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        self.decide(check.cost(6)).await;
        for _ in 0..3 {
            assert!(
                !self.decide(check.cost(5)).await.is_allowed(),
                "{quota}: 6 + 5 of 10"
            );
        }
        assert!(
            self.decide(check.cost(4)).await.is_allowed(),
            "{quota}: a denial was charged"
        );
    }

    async fn handles_extreme_costs(&self, quota: Quota) {
        let (identity, limits) = (self.identity("cost", quota), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        for cost in [quota.capacity() + 1, u32::MAX] {
            let decision = self.decide(check.cost(cost)).await;
            assert!(
                !decision.is_allowed(),
                "{quota}: cost {cost} is above the capacity"
            );
            assert_eq!(
                decision.retry_after(),
                None,
                "{quota}: cost {cost} can never fit"
            );
            assert_eq!(
                decision.remaining(),
                quota.capacity(),
                "{quota}: cost {cost} was stored"
            );
        }
        let decision = self.decide(check.cost(0)).await;
        assert!(decision.is_allowed(), "{quota}: cost 0 is allowed");
        assert!(
            self.decide(check.cost(quota.capacity())).await.is_allowed(),
            "{quota}: denied its whole capacity"
        );
        assert!(
            self.decide(check.cost(0)).await.is_allowed(),
            "{quota}: cost 0 is allowed on an exhausted quota"
        );
    }

    async fn peek_charges_nothing(&self, quota: Quota) {
        let (identity, limits) = (self.identity("peek", quota), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        self.decide(check.cost(3)).await;
        for _ in 0..3 {
            assert_eq!(
                self.decide(check.cost(0)).await.remaining(),
                7,
                "{quota}: a peek was charged"
            );
        }
    }

    async fn reset_forgets_counts(&self, quota: Quota) {
        let (identity, limits) = (self.identity("reset", quota), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        self.decide(check.cost(10)).await;
        let reset = self.store.reset(&check).wait().await;
        reset.expect("the store resets");
        assert_eq!(
            self.decide(check.cost(0)).await.remaining(),
            10,
            "{quota}: remaining after a reset"
        );
        assert!(
            self.decide(check.cost(10)).await.is_allowed(),
            "{quota}: denied after a reset"
        );
    }

    /// Charges a check to be settled. Returns `None` if it is denied.
    async fn reserve(&self, check: Check<'_>) -> Option<Receipt> {
        let verdict = self.store.check(&check.reserving()).wait().await;
        let verdict = verdict.expect("the store decides");
        if !verdict.is_allowed() {
            return None;
        }
        let receipt = verdict
            .receipt
            .expect("an allowed check that reserves has a receipt");
        receipt.keep();
        Some(*receipt)
    }

    async fn settle(&self, check: Check<'_>, receipt: &Receipt, used: u32) {
        let settled = self.store.settle(&check, receipt, used).wait().await;
        settled.expect("the store settles");
    }

    async fn settles_charges(&self, quota: Quota) {
        let (identity, limits) = (self.identity("settle", quota), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        let receipt = self.reserve(check.cost(6)).await;
        let receipt = receipt.expect("nothing is charged");
        assert_eq!(
            self.decide(check.cost(0)).await.remaining(),
            4,
            "{quota}: 6 of 10 are reserved"
        );
        let denied = self.reserve(check.cost(5)).await;
        assert!(denied.is_none(), "{quota}: 6 + 5 of 10");
        let renewed = self.store.renew(&check.cost(6), &receipt).wait().await;
        let receipt = renewed.expect("the store renews");
        self.settle(check.cost(6), &receipt, 2).await;
        // Slots are free, whatever was used.
        let left = if quota.period().is_zero() { 10 } else { 8 };
        assert_eq!(
            self.decide(check.cost(0)).await.remaining(),
            left,
            "{quota}: 6 were reserved, and 2 were used"
        );
    }

    async fn reset_voids_open_charges(&self, quota: Quota) {
        let (identity, limits) = (self.identity("void", quota), Limits::from(quota));
        let check = Check::new(&identity, &limits).cost(6);
        let before = self.reserve(check).await.expect("nothing is charged");
        let reset = self.store.reset(&check).wait().await;
        reset.expect("the store resets");
        let after = self.reserve(check).await.expect("the state was reset");
        self.settle(check, &before, 0).await;
        assert_eq!(
            self.decide(check.cost(0)).await.remaining(),
            4,
            "{quota}: a charge from before a reset was refunded"
        );
        self.settle(check, &after, 0).await;
    }

    async fn concurrent_reservations_admit_exactly_the_limit(&self, quota: Quota) {
        let (identity, limits) = (self.identity("reservations", quota), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        for _ in 0..3 {
            let mut tasks = JoinSet::new();
            for _ in 0..30 {
                let (subject, check) = (self.clone(), check.into_owned());
                tasks.spawn(async move { subject.reserve(check.borrow()).await });
            }
            let receipts = tasks.join_all().await;
            let receipts: Vec<_> = receipts.into_iter().flatten().collect();
            assert_eq!(receipts.len(), 10, "{quota}: concurrent reservations");
            for receipt in &receipts {
                self.settle(check, receipt, 0).await;
            }
        }
    }

    async fn keeps_counts_separate(&self, quota: Quota) {
        let scope = Scope::new("other").expect("the name is valid");
        let [one, two] = ["apart-1", "apart-2"].map(|name| self.identity(name, quota));
        let limits = Limits::from(quota);
        let renamed = Limits::new([Policy::new("renamed", quota)]).expect("the name is valid");
        let changed = Limits::from(quotas(11)[0]);
        let check = Check::new(&one, &limits);
        self.decide(check.cost(10)).await;
        for other in [
            Check::new(&two, &limits),
            Check::new(&one, &renamed),
            Check::new(&one, &changed),
            check.scope(&scope),
        ] {
            assert!(
                self.decide(other.cost(10)).await.is_allowed(),
                "{other:?} shares a count with {check:?}"
            );
        }
    }

    async fn joins_states_of_the_fallback(&self, quota: Quota) {
        let limits = Limits::from(quota);
        // The fallback's clock, which is unrelated to the store's.
        let now = 1_234_567_890_000_000;
        let (fallback, _) = quota.step(State::default(), now, 8);
        let fallback = FallbackStates {
            states: [fallback].into_iter().collect(),
            now,
        };
        for cost in [0, 5, 11, 1] {
            let identity = self.identity("fallback", (quota, cost));
            let check = Check::new(&identity, &limits);
            self.decide(check.cost(3)).await;
            for again in [false, true] {
                // Joining is idempotent, and the joined state is kept even if the check is denied.
                let check = check.cost(if again { 0 } else { cost });
                self.decide(check.with_fallback(Some(&fallback))).await;
            }
            let left = if cost == 1 { 1 } else { 2 };
            let found = self.decide(check.cost(0)).await.remaining();
            assert_eq!(
                found, left,
                "{quota}: 3 in the store, 8 in the fallback, then cost {cost}"
            );
        }
    }

    /// Returns the status of a check that waits, and when its wait ends, in microseconds since the Unix
    /// epoch.
    async fn release(&self, check: Check<'_>) -> (Status, u64) {
        let verdict = self.store.check(&check).wait().await;
        let verdict = verdict.expect("the store decides");
        let status = check.replay(&verdict).expect("the verdict is valid")[0];
        (status, verdict.now() + status.delay().as_micros() as u64)
    }

    async fn queue_spaces_charges_evenly(&self) {
        let (identity, limits) = (self.identity("spacing", ()), Limits::from(QUEUE));
        let check = Check::new(&identity, &limits).max_wait(Duration::MAX);
        for _ in 0..10 {
            let (status, _) = self.release(check).await;
            assert!(status.is_allowed(), "denied within the burst");
            assert_eq!(status.delay(), Duration::ZERO, "delayed within the burst");
        }
        let mut previous: Option<u64> = None;
        for place in 1..=10 {
            let (status, release) = self.release(check).await;
            assert!(status.is_allowed(), "place {place} of 10 is denied");
            assert_eq!(status.remaining(), 0, "remaining beside a queue");
            // The ends of the waits do not depend on when the checks were made.
            if let Some(previous) = previous {
                assert_eq!(release, previous + QUEUE_SPACING, "the end of wait {place}");
            }
            previous = Some(release);
        }
        let (status, _) = self.release(check).await;
        assert!(!status.is_allowed(), "admitted one more than the queue");
        assert!(
            status.retry_after() > Some(Duration::ZERO),
            "a denial without a wait"
        );
        let (status, _) = self.release(check.cost(11)).await;
        assert_eq!(status.retry_after(), None, "a cost above the burst");
    }

    async fn queue_admits_within_the_maximum_wait(&self) {
        let (identity, limits) = (self.identity("wait", ()), Limits::from(QUEUE));
        let check = Check::new(&identity, &limits);
        self.release(check.cost(10)).await;
        let too_short = Duration::from_secs(60);
        for denied in [
            check,
            check.max_wait(too_short),
            check.max_wait(Duration::ZERO),
        ] {
            let (status, _) = self.release(denied).await;
            assert!(!status.is_allowed(), "queued beyond {:?}", denied.max_wait);
        }
        let (first, first_release) = self.release(check.max_wait(3 * too_short)).await;
        assert!(first.is_allowed() && !first.delay().is_zero());
        // A denial that had charged something would have moved this release.
        let (_, second_release) = self.release(check.max_wait(Duration::MAX)).await;
        assert_eq!(second_release, first_release + QUEUE_SPACING);
        let (status, _) = self.release(check.max_wait(3 * too_short)).await;
        assert!(
            !status.is_allowed(),
            "the third place waits for nine minutes"
        );
    }

    async fn concurrent_checks_share_a_queue(&self) {
        let (identity, limits) = (self.identity("queue", ()), Limits::from(QUEUE));
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let (subject, identity, limits) = (self.clone(), identity.clone(), limits.clone());
            tasks.spawn(async move {
                let mut releases = Vec::new();
                for _ in 0..5 {
                    let check = Check::new(&identity, &limits).max_wait(Duration::MAX);
                    let (status, release) = subject.release(check).await;
                    if status.is_allowed() {
                        releases.push((!status.delay().is_zero()).then_some(release));
                    }
                    tokio::task::yield_now().await;
                }
                releases
            });
        }
        let releases = tasks.join_all().await.concat();
        assert_eq!(releases.len(), 20, "admitted of 80 concurrent checks");
        let mut queued: Vec<u64> = releases.into_iter().flatten().collect();
        queued.sort_unstable();
        assert_eq!(queued.len(), 10, "queued of 20 admitted checks");
        let spacing = queued.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(
            spacing.clone().all(|spacing| spacing == QUEUE_SPACING),
            "waits end unevenly: {:?}",
            spacing.collect::<Vec<_>>()
        );
    }

    async fn charges_all_policies_or_none(&self) {
        let roomy = limits_of(quotas(10));
        let tight = limits_of(quotas(10).into_iter().chain([quotas(4)[0]]));
        let identity = self.identity("all-or-none", ());

        assert!(
            self.decide(Check::new(&identity, &tight).cost(4))
                .await
                .is_allowed()
        );
        let denied = self.decide(Check::new(&identity, &tight).cost(1)).await;
        assert!(!denied.is_allowed(), "one policy of four is exhausted");
        let denials: Vec<_> = denied.0.iter().map(|status| !status.is_allowed()).collect();
        assert_eq!(
            denials,
            [false, false, false, true],
            "the exhausted policy denies"
        );
        for status in &denied.0[..3] {
            assert_eq!(
                status.remaining(),
                6,
                "charged though another policy denied"
            );
        }
        assert!(
            self.decide(Check::new(&identity, &roomy).cost(6))
                .await
                .is_allowed()
        );
    }

    async fn concurrent_checks_admit_exactly_the_limit(&self, quota: Quota) {
        let identity = self.identity("many", quota);
        self.check_concurrently(identity, Limits::from(quota)).await;
    }

    async fn concurrent_checks_admit_the_tightest_limit(&self) {
        let limits = limits_of(quotas(10).into_iter().chain(quotas(12)));
        self.check_concurrently(self.identity("many", &limits), limits)
            .await;
    }

    /// Checks of 16 identities within another one, which all count by the same level.
    async fn identities_share_the_count_of_their_level(&self, quota: Quota) {
        let outer = self.identity("outer", quota);
        let shared = Policy::new("shared", quota).per(&KIND);
        let own = Policy::new("own", quotas(2)[0]);
        let limits = Limits::new([own.clone(), shared.clone()]).expect("two names");
        let inner = |number: usize| {
            let inner = Identity::user(&number.to_string()).within(outer.clone());
            inner.expect("two kinds")
        };
        let mut tasks = JoinSet::new();
        for number in 0..16 {
            let (subject, identity, limits) = (self.clone(), inner(number), limits.clone());
            tasks.spawn(async move {
                let mut admitted = 0;
                for _ in 0..3 {
                    let statuses = subject.decide(Check::new(&identity, &limits)).await;
                    admitted += u32::from(statuses.is_allowed());
                    tokio::task::yield_now().await;
                }
                (number, admitted)
            });
        }
        let admitted = tasks.join_all().await;
        let total: u32 = admitted.iter().map(|(_, admitted)| admitted).sum();
        assert_eq!(total, 10, "{quota}: admitted of 16 identities together");

        let [own, shared] =
            [own, shared].map(|policy| Limits::new([policy]).expect("a valid name"));
        for (number, admitted) in admitted {
            let peek = self.decide(Check::new(&inner(number), &own).cost(0)).await;
            assert_eq!(
                peek.remaining(),
                2 - admitted,
                "{quota}: a check that the outer level denied is not charged"
            );
        }
        let itself = self.decide(Check::new(&outer, &shared).cost(0)).await;
        assert_eq!(itself.remaining(), 0, "{quota}: the outer identity");
    }

    async fn check_concurrently(&self, identity: Identity, limits: Limits) {
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let (subject, identity, limits) = (self.clone(), identity.clone(), limits.clone());
            tasks.spawn(async move {
                let mut admitted = 0;
                for _ in 0..5 {
                    let statuses = subject.decide(Check::new(&identity, &limits)).await;
                    admitted += u32::from(statuses.is_allowed());
                    tokio::task::yield_now().await;
                }
                admitted
            });
        }
        let admitted: u32 = tasks.join_all().await.into_iter().sum();
        assert_eq!(admitted, 10, "{limits:?}: admitted of 80 concurrent checks");
    }

    async fn matches_quota_steps(&self, quotas: &[Quota], clock: &ManualClock) {
        let limits = limits_of(quotas.iter().copied());
        let identity = self.identity("steps", quotas);
        let start = clock.now();
        let mut random = Random(0x5eed);
        let mut states = vec![State::default(); quotas.len()];
        for index in 0..2_000 {
            let now = match random.below(20) {
                0 => clock.now() - random.below(500_000),
                1 => clock.now() + random.below(20_000_000),
                2 => start + random.below(1_000) * 1_000_000,
                _ => clock.now() + random.below(400_000),
            };
            clock.set(now);
            let cost = random.below(5) as u32;
            let max_wait = match random.below(3) {
                0 => Duration::ZERO,
                1 => Duration::MAX,
                _ => Duration::from_micros(random.below(3_000_000)),
            };
            let check = Check::new(&identity, &limits).cost(cost).max_wait(max_wait);
            let decision = self.decide(check).await;

            let steps = |cost: u32| {
                let steps = quotas.iter().zip(&states);
                steps
                    .map(|(quota, state)| quota.step_within(*state, now, cost, max_wait))
                    .collect::<Vec<_>>()
            };
            let charged = steps(cost);
            let allowed = charged.iter().all(|(_, status)| status.is_allowed());
            assert_eq!(
                decision.is_allowed(),
                allowed,
                "{limits:?}, step {index}, cost {cost}"
            );
            for (actual, (_, expected)) in decision.0.iter().zip(&charged) {
                if allowed || !expected.is_allowed() {
                    assert_eq!(actual, expected, "{limits:?}, step {index}, cost {cost}");
                }
            }
            let kept = if allowed { charged } else { steps(0) };
            states = kept.into_iter().map(|(state, _)| state).collect();
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014), with a fixed seed so that runs are reproducible.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
