use std::time::Duration;

use super::state::{State, Status};
use super::token_bucket::{LONGEST, TokenBucket};
use super::window::Window;
use crate::error::{QuotaError, QuotaFlaw};

/// What is allowed: an algorithm and its numbers.
///
/// ```
/// use std::time::Duration;
/// use tollgate::Quota;
///
/// const LOGIN: Quota = Quota::sliding_window(5, Duration::from_secs(15 * 60));
///
/// // Five a second on average, ten at once.
/// let api = Quota::per_second(5).burst(10);
/// assert_eq!(api, "5/1s burst 10".parse()?);
/// assert_eq!(LOGIN.to_string(), "sliding 5/15m");
/// # Ok::<(), tollgate::QuotaError>(())
/// ```
///
/// # Panics
///
/// The constructors panic when the numbers make no quota: at compile time in a `const`. Those
/// that begin with `try_` return the [`QuotaError`] instead; use them, or
/// [`str::parse`](std::str::FromStr), for numbers from a configuration. The rules:
///
/// - a limit and a burst are at least 1;
/// - a period is at least one tick and a whole number of ticks (a microsecond for token buckets,
///   a millisecond for windows), and at most ten years, as is the time to fill a bucket;
/// - the products of the arithmetic stay below 2⁵³, so that a store whose numbers are doubles
///   (Lua in Redis) decides the same. The error names the product. A fixed window has no product:
///   its limit may be any `u32`, in any period.
///
/// The last rule is about the final numbers. `Quota::per_day(99_999_989).burst(1_000)` is exact,
/// although a bucket of 99,999,989 tokens is not, so [`token_bucket`](Quota::token_bucket) and the
/// constructors named for a period leave the rule to [`burst`](Quota::burst) or, if no burst is set,
/// to [`Policy::new`](crate::Policy::new). Text and the constructors that begin with `try_` check
/// every rule at once.
///
/// # Text
///
/// `100/1m`, `100/1m burst 20`, `sliding 100/1h`, `fixed 10/1s`: a limit, a period with one of the
/// units `d`, `h`, `m`, `s`, `ms`, `us` (`100/m` is `100/1m`), for a token bucket its burst where
/// that differs from the limit, for a window its kind. With the feature `serde`, quotas are
/// serialized so.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota(pub(super) Kind);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    TokenBucket(TokenBucket),
    Window(Window),
}

/// The algorithm of a [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// A bucket that holds `burst` tokens and gains `limit` tokens a period, evenly: at most
    /// `burst + limit` in any period.
    TokenBucket,
    /// At most `limit` in each window of the clock, and at most `2 * limit - 1` in any other stretch
    /// of that length, judged by the counts of this window and the last one.
    SlidingWindow,
    /// At most `limit` in each window of the clock, and at most `2 * limit` in any other stretch of
    /// that length.
    FixedWindow,
}

impl Quota {
    /// A token bucket of `limit` tokens that fills at `limit` a second.
    pub const fn per_second(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(1))
    }

    /// A token bucket of `limit` tokens that fills at `limit` a minute.
    pub const fn per_minute(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(60))
    }

    /// A token bucket of `limit` tokens that fills at `limit` an hour.
    pub const fn per_hour(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(3_600))
    }

    /// A token bucket of `limit` tokens that fills at `limit` a day.
    pub const fn per_day(limit: u32) -> Self {
        Self::token_bucket(limit, Duration::from_secs(86_400))
    }

    /// A token bucket of `limit` tokens that fills at `limit` a period, one token at a time.
    ///
    /// The first period admits nearly twice the limit: all tokens at once, and those that flow back.
    /// Use [`burst`](Quota::burst) for a bucket of another size.
    pub const fn token_bucket(limit: u32, period: Duration) -> Self {
        unwrap(Self::token_bucket_of(limit, period, limit))
    }

    /// About `limit` in any stretch of `period`, as a sliding window counter judges it.
    ///
    /// Never more than `limit` in one window of the clock. Another stretch may admit `2 * limit - 1`:
    /// the limit at the end of one window, and all but one of it shortly before the end of the next.
    /// A client that sends `limit` requests a period, evenly, is admitted with half of them if the limit
    /// is 1, and with four fifths if it is 5: prefer a token bucket for a few requests a period.
    pub const fn sliding_window(limit: u32, period: Duration) -> Self {
        unwrap(Self::window_of(limit, period, true))
    }

    /// At most `limit` in each `period` of the clock, counted from the Unix epoch.
    ///
    /// A client that spends one window's quota at its end and the next one's at its start gets
    /// twice the limit within a moment. With [`sliding_window`](Quota::sliding_window) nearly a whole
    /// period lies in between. The limit may be any `u32`, in any period.
    pub const fn fixed_window(limit: u32, period: Duration) -> Self {
        unwrap(Self::window_of(limit, period, false))
    }

    /// The same token bucket with room for `burst` tokens: how many may be spent at once.
    ///
    /// # Panics
    ///
    /// If the burst is 0, or too large for the arithmetic, or if this is a window.
    #[must_use = "a quota is a value: this returns another one"]
    pub const fn burst(self, burst: u32) -> Self {
        unwrap(self.with_burst(burst))
    }

    /// Like [`token_bucket`](Quota::token_bucket), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_token_bucket(limit: u32, period: Duration) -> Result<Self, QuotaError> {
        Self::try_token_bucket_with_burst(limit, period, limit)
    }

    /// A token bucket of `burst` tokens that fills at `limit` a period.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_token_bucket_with_burst(
        limit: u32,
        period: Duration,
        burst: u32,
    ) -> Result<Self, QuotaError> {
        let quota = Self::token_bucket_of(limit, period, burst)?;
        quota.check_exact()?;
        Ok(quota)
    }

    /// Like [`sliding_window`](Quota::sliding_window), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_sliding_window(limit: u32, period: Duration) -> Result<Self, QuotaError> {
        Ok(Self::window_of(limit, period, true)?)
    }

    /// Like [`fixed_window`](Quota::fixed_window), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`].
    pub fn try_fixed_window(limit: u32, period: Duration) -> Result<Self, QuotaError> {
        Ok(Self::window_of(limit, period, false)?)
    }

    /// Like [`burst`](Quota::burst), but returns an error instead of panicking.
    ///
    /// # Errors
    ///
    /// If the numbers break one of the rules of [`Quota`], or if this is a window.
    pub fn try_burst(self, burst: u32) -> Result<Self, QuotaError> {
        Ok(self.with_burst(burst)?)
    }

    /// Checks that the arithmetic of the final numbers is exact.
    pub(super) const fn check_exact(&self) -> Result<(), QuotaFlaw> {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.check_exact(),
            // A window is checked when it is made.
            Kind::Window(_) => Ok(()),
        }
    }

    const fn token_bucket_of(limit: u32, period: Duration, burst: u32) -> Result<Self, QuotaFlaw> {
        match ticks(period, Duration::from_micros(1)) {
            Ok(period) => match TokenBucket::new(limit, period, burst) {
                Ok(bucket) => Ok(Self(Kind::TokenBucket(bucket))),
                Err(flaw) => Err(flaw),
            },
            Err(flaw) => Err(flaw),
        }
    }

    const fn window_of(limit: u32, period: Duration, sliding: bool) -> Result<Self, QuotaFlaw> {
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
        match TokenBucket::new(bucket.limit, bucket.period, burst) {
            Ok(bucket) => match bucket.check_exact() {
                Ok(()) => Ok(Self(Kind::TokenBucket(bucket))),
                Err(flaw) => Err(flaw),
            },
            Err(flaw) => Err(flaw),
        }
    }

    /// The algorithm that decides.
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Kind::TokenBucket(_) => Algorithm::TokenBucket,
            Kind::Window(Window { sliding: true, .. }) => Algorithm::SlidingWindow,
            Kind::Window(_) => Algorithm::FixedWindow,
        }
    }

    /// The rate: how much cost is allowed in each [`period`](Quota::period) over a long time. How
    /// much is allowed at once is the [`capacity`](Quota::capacity).
    pub const fn limit(&self) -> u32 {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.limit,
            Kind::Window(window) => window.limit,
        }
    }

    /// The period that the limit is for.
    pub const fn period(&self) -> Duration {
        match &self.0 {
            Kind::TokenBucket(bucket) => Duration::from_micros(bucket.period),
            Kind::Window(window) => Duration::from_millis(window.period),
        }
    }

    /// How much cost is allowed at once: a token bucket's burst, a window's limit.
    ///
    /// `X-RateLimit-Limit` holds the capacity, since `X-RateLimit-Remaining` counts down from it.
    pub const fn capacity(&self) -> u32 {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.burst,
            Kind::Window(window) => window.limit,
        }
    }

    /// How long until the whole [`capacity`](Quota::capacity) is available again after it was
    /// spent at once, if that is a whole number of seconds: `w` of the `RateLimit-Policy` header.
    pub(crate) fn window_seconds(&self) -> Option<u64> {
        let microseconds = match &self.0 {
            Kind::TokenBucket(bucket) => bucket.fill_time()?,
            Kind::Window(window) => window.period * 1_000,
        };
        (microseconds % 1_000_000 == 0).then_some(microseconds / 1_000_000)
    }

    /// Decides one check: the pure step behind every store.
    ///
    /// `now` is in microseconds since the Unix epoch. Returns the state to keep and the status to
    /// report. A denied check charges nothing; the state returned with it still differs from the
    /// one given where that was from so far ahead that the clock must have stepped back, and it
    /// should be kept. A cost of 0 only looks, and is allowed. Never panics, whatever the state.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{Quota, State};
    ///
    /// let quota = Quota::per_second(3);
    /// let now = 1_700_000_000_000_000;
    /// let (state, status) = quota.step(State::default(), now, 3);
    /// assert!(status.is_allowed());
    /// // The next token is there after a third of a second: 333,333 ⅓ µs, so a microsecond later.
    /// let (_, status) = quota.step(state, now, 1);
    /// assert_eq!(status.retry_after(), Some(Duration::from_micros(333_334)));
    /// ```
    #[inline]
    pub fn step(&self, state: State, now: u64, cost: u32) -> (State, Status) {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.step(state, now, cost),
            Kind::Window(window) => window.step(state, now, cost),
        }
    }

    /// The more indebted of two states: for a bucket the one that is full later, for windows the
    /// larger count of each window.
    ///
    /// Joining the same state twice changes nothing. That is what lets several replicas return to
    /// a shared store at once, each with what it counted alone.
    pub fn join(&self, one: State, other: State, now: u64) -> State {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.join(one, other, now),
            Kind::Window(window) => window.join(one, other, now),
        }
    }

    /// Carries a state from one clock to another: the same debt at `to` as it was at `from`.
    ///
    /// Both are microseconds since the Unix epoch, read at the same moment from the two clocks.
    pub fn rebase(&self, state: State, from: u64, to: u64) -> State {
        match &self.0 {
            Kind::TokenBucket(_) if state.until < from => State::default(),
            Kind::TokenBucket(_) => State {
                until: (state.until - from).saturating_add(to),
                ..state
            },
            Kind::Window(window) => window.rebase(state, from, to),
        }
    }

    /// The token bucket that this is, if the rest of its states is always less than `parts`.
    #[inline]
    pub(crate) fn token_bucket_in(&self, parts: u64) -> Option<&TokenBucket> {
        match &self.0 {
            Kind::TokenBucket(bucket) if bucket.parts() <= parts => Some(bucket),
            _ => None,
        }
    }

    /// How much of the quota a state has used, roughly: 255 stands for all of it.
    pub(crate) fn used(&self, state: State, now: u64) -> u8 {
        match &self.0 {
            Kind::TokenBucket(bucket) => bucket.used(state, now),
            Kind::Window(window) => window.used(state),
        }
    }

    /// What `cost` is charged as where each of `share` replicas decides alone: that many times
    /// over, but never so much that a full quota would not admit it.
    pub(crate) fn shared_cost(&self, cost: u32, share: u32) -> u32 {
        match cost.saturating_mul(share) {
            shared if cost <= self.capacity() => shared.min(self.capacity()),
            _ => cost,
        }
    }
}

/// The period in ticks of the algorithm's clock.
const fn ticks(period: Duration, tick: Duration) -> Result<u64, QuotaFlaw> {
    if period.as_micros() > LONGEST {
        return Err(QuotaFlaw::PeriodTooLong { period });
    }
    if period.is_zero() || !period.as_nanos().is_multiple_of(tick.as_nanos()) {
        return Err(QuotaFlaw::PeriodNotInTicks { period, tick });
    }
    Ok((period.as_nanos() / tick.as_nanos()) as u64)
}

const fn unwrap(quota: Result<Quota, QuotaFlaw>) -> Quota {
    match quota {
        Ok(quota) => quota,
        Err(flaw) => panic!("{}", flaw.summary()),
    }
}
