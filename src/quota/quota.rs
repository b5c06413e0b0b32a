use std::time::Duration;

use super::concurrency::Concurrency;
use super::error::{QuotaError, QuotaFlaw};
use super::state::{State, Status};
use super::token_bucket::{MAX_PERIOD, TokenBucket};
use super::window::Window;

/// A rate limit: an algorithm and its numbers.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Quota;
///
/// const LOGIN: Quota = Quota::sliding_window(5, Duration::from_secs(15 * 60));
///
/// // 5 requests a second on average, at most 10 at once.
/// let api = Quota::per_second(5).burst(10);
/// assert_eq!(api, "5/1s burst 10".parse()?);
/// assert_eq!(LOGIN.to_string(), "sliding 5/15m");
/// # Ok::<(), tollgate::QuotaError>(())
/// ```
///
/// # Panics
///
/// The constructors panic if the numbers are invalid: at compile time in a `const`. The constructors
/// named `try_*` return a [`QuotaError`] instead; use them, or [`str::parse`](std::str::FromStr), for
/// numbers from a configuration. The rules:
///
/// - a limit, a burst and a queue are at least 1;
/// - a period is a positive number of ticks (a microsecond for token buckets, a millisecond for
///   windows) and at most ten years, as is the time to fill a bucket;
/// - a queue is served within an hour;
/// - a reservation lasts for a second to a day, in whole milliseconds;
/// - the products of the arithmetic are below 2⁵³, so that a store that computes with doubles (Lua in
///   Redis) decides the same. The error names the product. A fixed window multiplies nothing: its
///   limit may be any `u32`, in any period.
///
/// The last rule applies to the final numbers. `Quota::per_day(99_999_989).burst(1_000)` is exact,
/// although a bucket of 99,999,989 tokens is not. So [`token_bucket`](Quota::token_bucket), the
/// constructors named for a period and [`queue`](Quota::queue) leave the rule to
/// [`burst`](Quota::burst) or, without a burst, to [`Policy::new`](crate::Policy::new). Parsing and the
/// `try_*` constructors check all rules at once.
///
/// # Text
///
/// `100/1m`, `100/1m burst 20`, `10/1s burst 5 queue 20`, `100000/1m reserve 2m`, `sliding 100/1h`,
/// `fixed 10/1s`, `concurrent 5`, `concurrent 5 reserve 10m`: for a window its kind, the limit, the
/// period with one of the units `d`, `h`, `m`, `s`, `ms`, `us` (`100/m` is `100/1m`); for a token bucket
/// the burst if it differs from the limit, the queue if it has one, and the time of reservations if it
/// reserves; for a concurrency limit that time if it differs from 30 seconds. With the feature `serde`,
/// quotas are serialized as this text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota(pub(super) Kind);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    TokenBucket(TokenBucket),
    Window(Window),
    Concurrency(Concurrency),
}

/// The algorithm of a [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// A bucket that holds `burst` tokens and refills evenly at `limit` tokens a period: it admits at
    /// most `burst + limit` in any period.
    TokenBucket,
    /// Counts of the current and the previous clock window: admits at most `limit` in each window,
    /// and at most `2 * limit - 1` in any other interval of that length.
    SlidingWindow,
    /// A count of the current clock window: admits at most `limit` in each window, and at most
    /// `2 * limit` in any other interval of that length.
    FixedWindow,
    /// A count of what runs at the moment: admits at most `limit` at a time.
    Concurrency,
}

/// How long a slot of a concurrency limit lasts without renewal, unless
/// [`reserve_for`](Quota::reserve_for) sets it: 30 s, in milliseconds.
pub(super) const SLOT_TTL: u64 = 30_000;

impl Quota {
    /// Creates a token bucket of `limit` tokens that refills at `limit` a second.
    pub const fn per_second(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(1))
    }

    /// Creates a token bucket of `limit` tokens that refills at `limit` a minute.
    pub const fn per_minute(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(60))
    }

    /// Creates a token bucket of `limit` tokens that refills at `limit` an hour.
    pub const fn per_hour(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(3_600))
    }

    /// Creates a token bucket of `limit` tokens that refills at `limit` a day.
    pub const fn per_day(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(86_400))
    }

    /// Creates a token bucket of `limit` tokens that refills at `limit` a period, one token at a time.
    ///
    /// The first period admits nearly twice the limit: the full bucket at once, and the tokens that
    /// are refilled meanwhile. [`burst`](Quota::burst) sets another size of the bucket.
    pub const fn token_bucket(limit: u32, period: Duration) -> Self {
        quota_or_panic(Self::new_token_bucket(limit, period, limit))
    }

    /// Creates a sliding window counter: about `limit` in any interval of length `period`.
    ///
    /// A clock window admits at most `limit`. Another interval of that length may admit
    /// `2 * limit - 1`: the limit at the end of one window, and one less shortly before the end of the
    /// next. If a client sends `limit` evenly spread requests a period, half of them are admitted with
    /// a limit of 1, and four fifths with a limit of 5: prefer a token bucket for a few requests a
    /// period.
    pub const fn sliding_window(limit: u32, period: Duration) -> Self {
        quota_or_panic(Self::new_window(limit, period, true))
    }

    /// Creates a fixed window: at most `limit` in each `period`, counted from the Unix epoch.
    ///
    /// A client that spends one window's limit at its end and the next window's at its start gets
    /// twice the limit at once. With [`sliding_window`](Quota::sliding_window), nearly a whole period
    /// lies in between. The limit may be any `u32`, in any period.
    pub const fn fixed_window(limit: u32, period: Duration) -> Self {
        quota_or_panic(Self::new_window(limit, period, false))
    }

    /// Sets how many tokens the bucket holds: the most that can be spent at once.
    ///
    /// # Panics
    ///
    /// If the burst is 0 or too large for the arithmetic, or if the quota is a window.
    #[must_use = "`burst` returns a new quota"]
    pub const fn burst(self, burst: u32) -> Self {
        quota_or_panic(self.with_burst(burst))
    }

    /// Creates a concurrency limit: at most `limit` of cost at a time.
    ///
    /// A check takes slots for its cost until its [`Permit`](crate::Permit) is dropped: behind a
    /// [`RateLimitLayer`](crate::RateLimitLayer), when the response body has ended. A process renews the
    /// slots of its permits. If the process ends or is cut off, its slots become free after at most twice
    /// the time that [`reserve_for`](Quota::reserve_for) sets: 30 seconds unless set.
    /// [`Limiter::check`](crate::Limiter::check) returns no permit and takes no slots: it only tells whether they
    /// are free.
    ///
    /// At most `limit` slots are taken that have not lapsed. A process that is paused for longer than twice
    /// that time and resumes runs beside its successors.
    ///
    /// ```
    /// use tollgate::Quota;
    ///
    /// const EXPORTS: Quota = Quota::concurrent(5);
    /// assert_eq!(EXPORTS.to_string(), "concurrent 5");
    /// ```
    pub const fn concurrent(limit: u32) -> Self {
        quota_or_panic(Self::new_concurrency(limit))
    }

    /// Reserves the cost of a check until its [`Permit`](crate::Permit) is settled: a token bucket then
    /// charges exactly what was used.
    ///
    /// A reservation takes part in every decision, but does not refill. Settling it charges the cost that
    /// was used at that time. A process renews the reservations of its permits. If the process ends or is
    /// cut off, they lapse after `ttl` to twice `ttl`, and are charged as they were reserved.
    /// [`Limiter::check`](crate::Limiter::check) returns no permit, so it charges its cost at once.
    ///
    /// For a [concurrency limit](Quota::concurrent), sets how long a slot lasts without renewal.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::Quota;
    ///
    /// // 100,000 tokens a minute, of which each answer is charged what it used.
    /// let quota = Quota::per_minute(100_000).reserve_for(Duration::from_secs(120));
    /// assert_eq!(quota.to_string(), "100000/1m reserve 2m");
    /// ```
    ///
    /// # Panics
    ///
    /// If the time is not a whole number of milliseconds from a second to a day, if the quota is a window,
    /// or if it has a queue.
    #[must_use = "`reserve_for` returns a new quota"]
    pub const fn reserve_for(self, ttl: Duration) -> Self {
        quota_or_panic(self.with_reservations(ttl))
    }

    /// Adds a queue: up to `cost` more is admitted ahead of its tokens, and waits until they are
    /// refilled.
    ///
    /// The queue is a leaky bucket, as nginx's `burst` without `nodelay`. A check that is queued is
    /// charged at once and waits for its [`delay`](crate::Decision::delay), so checks are served in the
    /// order in which they were charged, and none of them polls. The [`capacity`](Quota::capacity)
    /// remains the burst, and a cost above the burst is never admitted.
    ///
    /// Only callers that wait use the queue: [`RateLimitLayer`](crate::RateLimitLayer), and a
    /// [`Check`](crate::Check) with a [`max_wait`](crate::Check::max_wait). For all others the quota is
    /// that of the burst.
    ///
    /// ```
    /// use tollgate::Quota;
    ///
    /// // Ten a second, evenly spaced. Up to 600 requests wait, for a minute at most.
    /// let quota = Quota::per_second(10).burst(1).queue(600);
    /// assert_eq!(quota.to_string(), "10/1s burst 1 queue 600");
    /// assert_eq!((quota.capacity(), quota.queued()), (1, 600));
    /// ```
    ///
    /// # Panics
    ///
    /// If the cost is 0, if the last place would wait for more than an hour, or if the quota reserves or is
    /// not a token bucket.
    #[must_use = "`queue` returns a new quota"]
    pub const fn queue(self, cost: u32) -> Self {
        quota_or_panic(self.with_queue(cost))
    }

    /// Like [`token_bucket`](Quota::token_bucket), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_token_bucket(limit: u32, period: Duration) -> Result<Self, QuotaError> {
        Self::try_token_bucket_with_burst(limit, period, limit)
    }

    /// Creates a token bucket of `burst` tokens that refills at `limit` a period.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_token_bucket_with_burst(
        limit: u32,
        period: Duration,
        burst: u32,
    ) -> Result<Self, QuotaError> {
        let quota = Self::new_token_bucket(limit, period, burst)?;
        quota.check_exact()?;
        Ok(quota)
    }

    /// Like [`sliding_window`](Quota::sliding_window), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_sliding_window(limit: u32, period: Duration) -> Result<Self, QuotaError> {
        Ok(Self::new_window(limit, period, true)?)
    }

    /// Like [`fixed_window`](Quota::fixed_window), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_fixed_window(limit: u32, period: Duration) -> Result<Self, QuotaError> {
        Ok(Self::new_window(limit, period, false)?)
    }

    /// Like [`burst`](Quota::burst), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`], or if the quota is a window.
    pub fn try_burst(self, burst: u32) -> Result<Self, QuotaError> {
        Ok(self.with_burst(burst)?)
    }

    /// Like [`queue`](Quota::queue), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`], or if the quota reserves or is not a token bucket.
    pub fn try_queue(self, cost: u32) -> Result<Self, QuotaError> {
        let quota = self.with_queue(cost)?;
        quota.check_exact()?;
        Ok(quota)
    }

    /// Like [`concurrent`](Quota::concurrent), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the limit is 0.
    pub fn try_concurrent(limit: u32) -> Result<Self, QuotaError> {
        Ok(Self::new_concurrency(limit)?)
    }

    /// Like [`reserve_for`](Quota::reserve_for), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the time is not a whole number of milliseconds from a second to a day, if the quota is a window,
    /// if it has a queue, or if the numbers break one of the rules of [`Quota`].
    pub fn try_reserve_for(self, ttl: Duration) -> Result<Self, QuotaError> {
        let quota = self.with_reservations(ttl)?;
        quota.check_exact()?;
        Ok(quota)
    }

    /// Checks that the arithmetic of the final numbers is exact.
    pub(super) const fn check_exact(&self) -> Result<(), QuotaFlaw> {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.check_exact(),
            // `Window::new` has checked it.
            Kind::Window(_) | Kind::Concurrency(_) => Ok(()),
        }
    }

    const fn new_token_bucket(limit: u32, period: Duration, burst: u32) -> Result<Self, QuotaFlaw> {
        match ticks(period, Duration::from_micros(1)) {
            Ok(period) => match TokenBucket::new(limit, period, burst, 0, 0) {
                Ok(bucket) => Ok(Self(Kind::TokenBucket(bucket))),
                Err(flaw) => Err(flaw),
            },
            Err(flaw) => Err(flaw),
        }
    }

    const fn new_window(limit: u32, period: Duration, sliding: bool) -> Result<Self, QuotaFlaw> {
        match ticks(period, Duration::from_millis(1)) {
            Ok(period) => match Window::new(limit, period, sliding) {
                Ok(window) => Ok(Self(Kind::Window(window))),
                Err(flaw) => Err(flaw),
            },
            Err(flaw) => Err(flaw),
        }
    }

    const fn with_burst(self, burst: u32) -> Result<Self, QuotaFlaw> {
        let Kind::TokenBucket(bucket) = self.0 else {
            return Err(QuotaFlaw::BurstOfWindow);
        };
        match TokenBucket::new(
            bucket.limit,
            bucket.period,
            burst,
            bucket.queue,
            bucket.reserve_ttl,
        ) {
            Ok(bucket) => match bucket.check_exact() {
                Ok(()) => Ok(Self(Kind::TokenBucket(bucket))),
                Err(flaw) => Err(flaw),
            },
            Err(flaw) => Err(flaw),
        }
    }

    const fn new_concurrency(limit: u32) -> Result<Self, QuotaFlaw> {
        match Concurrency::new(limit, SLOT_TTL) {
            Ok(concurrency) => Ok(Self(Kind::Concurrency(concurrency))),
            Err(flaw) => Err(flaw),
        }
    }

    const fn with_reservations(self, ttl: Duration) -> Result<Self, QuotaFlaw> {
        const DAY: u128 = 86_400_000;
        let milliseconds = ttl.as_millis();
        if milliseconds < 1_000
            || milliseconds > DAY
            || !ttl.subsec_nanos().is_multiple_of(1_000_000)
        {
            return Err(QuotaFlaw::ReservationTime { ttl });
        }
        let ttl = milliseconds as u64;
        match self.0 {
            Kind::TokenBucket(TokenBucket {
                limit,
                period,
                burst,
                queue,
                ..
            }) => match TokenBucket::new(limit, period, burst, queue, ttl) {
                Ok(bucket) => Ok(Self(Kind::TokenBucket(bucket))),
                Err(flaw) => Err(flaw),
            },
            Kind::Concurrency(Concurrency { limit, .. }) => {
                Ok(Self(Kind::Concurrency(Concurrency { limit, ttl })))
            }
            Kind::Window(_) => Err(QuotaFlaw::ReservingWindow),
        }
    }

    const fn with_queue(self, queue: u32) -> Result<Self, QuotaFlaw> {
        let Kind::TokenBucket(bucket) = self.0 else {
            return Err(QuotaFlaw::QueueOfWindow);
        };
        if queue == 0 {
            return Err(QuotaFlaw::ZeroQueue);
        }
        match TokenBucket::new(
            bucket.limit,
            bucket.period,
            bucket.burst,
            queue,
            bucket.reserve_ttl,
        ) {
            Ok(bucket) => Ok(Self(Kind::TokenBucket(bucket))),
            Err(flaw) => Err(flaw),
        }
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Kind::TokenBucket(_) => Algorithm::TokenBucket,
            Kind::Window(Window { sliding: true, .. }) => Algorithm::SlidingWindow,
            Kind::Window(_) => Algorithm::FixedWindow,
            Kind::Concurrency(_) => Algorithm::Concurrency,
        }
    }

    /// Returns the rate: the cost that is admitted in each [`period`](Quota::period) over a long time.
    /// The [`capacity`](Quota::capacity) is what is admitted at once.
    pub const fn limit(&self) -> u32 {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.limit,
            Kind::Window(window) => window.limit,
            Kind::Concurrency(concurrency) => concurrency.limit,
        }
    }

    /// Returns the period of the limit: zero for a concurrency limit.
    pub const fn period(&self) -> Duration {
        match &self.0 {
            Kind::TokenBucket(bucket) => Duration::from_micros(bucket.period),
            Kind::Window(window) => Duration::from_millis(window.period),
            Kind::Concurrency(_) => Duration::ZERO,
        }
    }

    /// Returns the cost that is admitted at once: a token bucket's burst, a window's limit.
    ///
    /// `X-RateLimit-Limit` holds the capacity, since `X-RateLimit-Remaining` counts down from it.
    pub const fn capacity(&self) -> u32 {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.burst,
            Kind::Window(window) => window.limit,
            Kind::Concurrency(concurrency) => concurrency.limit,
        }
    }

    /// Returns the cost that may wait in the [queue](Quota::queue): 0 without a queue.
    pub const fn queued(&self) -> u32 {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.queue,
            Kind::Window(_) | Kind::Concurrency(_) => 0,
        }
    }

    /// Returns how long a reservation lasts without renewal, or `None` for a quota that does not
    /// [reserve](Quota::reserve_for).
    pub const fn reserved_for(&self) -> Option<Duration> {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.reserve_ttl == 0 => None,
            Kind::TokenBucket(bucket) => Some(Duration::from_millis(bucket.reserve_ttl)),
            Kind::Window(_) => None,
            Kind::Concurrency(concurrency) => Some(Duration::from_millis(concurrency.ttl)),
        }
    }

    /// Returns the quota with reservations, if it is a token bucket that can have them.
    pub(super) fn settleable(&self) -> Result<Self, QuotaError> {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.queue == 0 && bucket.reserve_ttl == 0 => {
                self.try_reserve_for(Duration::from_millis(SLOT_TTL))
            }
            _ => Ok(*self),
        }
    }

    /// Returns whether checks reserve their cost under this quota.
    pub(crate) const fn is_reserving(&self) -> bool {
        self.reserved_for().is_some()
    }

    /// Returns whether a charge of this quota can be settled. The charge of a plain token bucket is final.
    pub(crate) const fn is_settleable(&self) -> bool {
        self.is_reserving() || matches!(self.0, Kind::Window(_))
    }

    /// Returns how long until the whole [`capacity`](Quota::capacity) is available again after it was
    /// spent at once, if that is a whole number of seconds: `w` of the `RateLimit-Policy` header.
    pub(crate) fn window_seconds(&self) -> Option<u64> {
        let microseconds = match &self.0 {
            Kind::TokenBucket(bucket) => bucket.whole_fill_time()?,
            Kind::Window(window) => window.period * 1_000,
            Kind::Concurrency(_) => return None,
        };
        (microseconds % 1_000_000 == 0).then_some(microseconds / 1_000_000)
    }

    /// Decides one check that does not wait in a queue: a pure function that every store calls.
    ///
    /// `now` is in microseconds since the Unix epoch. Returns the state to keep and the check's
    /// status. A denied check charges nothing; its state is still to be kept, since it differs from
    /// `state` if the clock has stepped back since that was written. A cost of 0 is allowed and charges
    /// nothing. No state causes a panic.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{Quota, store::State};
    ///
    /// let quota = Quota::per_second(3);
    /// let now = 1_700_000_000_000_000;
    /// let (state, status) = quota.step(State::default(), now, 3);
    /// assert!(status.is_allowed());
    /// // The next token is refilled after 333,333 ⅓ µs, which is rounded up.
    /// let (_, status) = quota.step(state, now, 1);
    /// assert_eq!(status.retry_after(), Some(Duration::from_micros(333_334)));
    /// ```
    #[inline]
    pub fn step(&self, state: State, now: u64, cost: u32) -> (State, Status) {
        self.step_within(state, now, cost, Duration::ZERO)
    }

    /// Decides one check that waits in the [queue](Quota::queue) for at most `max_wait`, in whole
    /// microseconds. Without a queue, the result is that of [`step`](Quota::step).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{Quota, store::State};
    ///
    /// let quota = Quota::per_second(10).burst(1).queue(2);
    /// let (mut state, now) = (State::default(), 1_700_000_000_000_000);
    /// for delay in [0, 100, 200] {
    ///     let (next, status) = quota.step_within(state, now, 1, Duration::MAX);
    ///     assert_eq!(status.delay(), Duration::from_millis(delay));
    ///     state = next;
    /// }
    /// let (_, status) = quota.step_within(state, now, 1, Duration::MAX);
    /// assert_eq!(status.retry_after(), Some(Duration::from_millis(100)));
    /// ```
    #[inline]
    pub fn step_within(
        &self,
        state: State,
        now: u64,
        cost: u32,
        max_wait: Duration,
    ) -> (State, Status) {
        self.charge(state, now, cost, max_wait, false)
    }

    /// Decides one check. If the check `reserves`, a quota that [reserves](Quota::reserve_for) keeps the cost
    /// apart from the debt.
    #[inline]
    pub(crate) fn charge(
        &self,
        state: State,
        now: u64,
        cost: u32,
        max_wait: Duration,
        reserves: bool,
    ) -> (State, Status) {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.reserve_ttl > 0 => {
                bucket.step_reserving(state, now, cost, reserves)
            }
            Kind::TokenBucket(bucket) => bucket.step(state, now, cost, max_wait),
            Kind::Window(window) => window.step(state, now, cost),
            Kind::Concurrency(concurrency) => concurrency.step(state, cost, reserves),
        }
    }

    /// Settles a charge of `charged` at the cost `used`. `window` is the charge's
    /// [`window_start`](Quota::window_start).
    pub(crate) fn settle(
        &self,
        state: State,
        now: u64,
        window: u64,
        charged: u32,
        used: u32,
    ) -> State {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.reserve_ttl > 0 => {
                bucket.settle(state, now, charged, used)
            }
            Kind::TokenBucket(_) => state,
            Kind::Window(quota) => quota.settle(state, now, window, charged, used),
            Kind::Concurrency(_) => state.with_reserved(state.reserved().saturating_sub(charged)),
        }
    }

    /// Returns the status after a charge of `charged` is settled at `used`. A concurrency limit's slots
    /// stay taken.
    pub(crate) fn settled_status(&self, status: Status, charged: u32, used: u32) -> Status {
        if !self.is_settleable() || self.algorithm() == Algorithm::Concurrency {
            return status;
        }
        let (returned, extra) = (charged.saturating_sub(used), used.saturating_sub(charged));
        let remaining = status.remaining.saturating_add(returned);
        Status {
            remaining: remaining.min(self.capacity()).saturating_sub(extra),
            ..status
        }
    }

    /// Returns the start of the window that a state counts in, in milliseconds since the Unix epoch: 0
    /// for other quotas.
    pub(crate) fn window_start(&self, state: State) -> u64 {
        match &self.0 {
            Kind::Window(window) => window.start_of(state),
            _ => 0,
        }
    }

    /// Returns the state that a store keeps apart from reservations.
    pub(crate) fn without_reserved(&self, state: State) -> State {
        match self.is_reserving() {
            true => state.with_reserved(0),
            false => state,
        }
    }

    /// Returns the more indebted of two states: the bucket that is full later, or the larger count of
    /// each window. The result has the reserved cost of `state`.
    ///
    /// The operation is idempotent, so several replicas can merge what they counted alone into a
    /// shared store, in any order and more than once.
    pub fn join(&self, state: State, other: State, now: u64) -> State {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.reserve_ttl > 0 => {
                let [debt, other] = [state, other].map(|state| state.with_reserved(0));
                bucket
                    .join(debt, other, now)
                    .with_reserved(state.reserved())
            }
            Kind::TokenBucket(bucket) => bucket.join(state, other, now),
            Kind::Window(window) => window.join(state, other, now),
            Kind::Concurrency(_) => state,
        }
    }

    /// Moves a state from one clock to another, so that its debt at `to` is its debt at `from`.
    ///
    /// `from` and `to` are readings of the two clocks at the same moment, in microseconds since the
    /// Unix epoch.
    pub fn rebase(&self, state: State, from: u64, to: u64) -> State {
        match &self.0 {
            Kind::TokenBucket(_) if state.until < from => State::default(),
            Kind::TokenBucket(_) => State {
                until: (state.until - from).saturating_add(to),
                ..state
            },
            Kind::Window(window) => window.rebase(state, from, to),
            Kind::Concurrency(_) => state,
        }
    }

    /// Returns the token bucket if it has no queue and the second word of its states is always below
    /// `bound`.
    #[inline]
    pub(crate) fn plain_bucket_within(&self, bound: u64) -> Option<&TokenBucket> {
        match &self.0 {
            Kind::TokenBucket(bucket)
                if bucket.queue == 0
                    && bucket.reserve_ttl == 0
                    && bucket.denominator() <= bound =>
            {
                Some(bucket)
            }
            _ => None,
        }
    }

    /// Returns roughly the used share of the quota: 255 for all of it.
    pub(crate) fn used(&self, state: State, now: u64) -> u8 {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.used(state, now),
            Kind::Window(window) => window.used(state),
            Kind::Concurrency(_) => 0,
        }
    }

    /// Returns what `cost` is charged if each of `replicas` replicas decides alone: the cost times
    /// the replicas, at most the capacity, so that a full quota still admits it.
    pub(crate) fn shared_cost(&self, cost: u32, replicas: u32) -> u32 {
        match cost.saturating_mul(replicas) {
            shared if cost <= self.capacity() => shared.min(self.capacity()),
            _ => cost,
        }
    }
}

/// Converts the period to ticks.
const fn ticks(period: Duration, tick: Duration) -> Result<u64, QuotaFlaw> {
    if period.as_micros() > MAX_PERIOD {
        return Err(QuotaFlaw::PeriodTooLong { period });
    }
    if period.is_zero() || !period.as_nanos().is_multiple_of(tick.as_nanos()) {
        return Err(QuotaFlaw::PeriodNotInTicks { period, tick });
    }
    Ok((period.as_nanos() / tick.as_nanos()) as u64)
}

const fn quota_or_panic(quota: Result<Quota, QuotaFlaw>) -> Quota {
    match quota {
        Ok(quota) => quota,
        Err(flaw) => panic!("{}", flaw.summary()),
    }
}
