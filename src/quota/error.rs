use std::time::Duration;

use crate::excerpt::excerpt;

/// Invalid numbers or an invalid text for a [`Quota`](crate::Quota).
///
/// ```
/// use tollgate::Quota;
///
/// assert!("100 per minute".parse::<Quota>().unwrap_err().is_syntax());
/// assert!("0/1m".parse::<Quota>().unwrap_err().is_zero());
/// assert!("sliding 100/1m".parse::<Quota>()?.try_burst(20).unwrap_err().is_window_burst());
/// # Ok::<(), tollgate::QuotaError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct QuotaError(QuotaErrorKind);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum QuotaErrorKind {
    #[error(transparent)]
    Flaw(#[from] QuotaFlaw),
    #[error(
        "`{0}` is not a quota: write `100/1m`, `100/1m burst 20`, `10/1s burst 5 queue 20`, \
         `100/1m reserve 30s`, `sliding 100/1h`, `fixed 10/1s` or `concurrent 5`, with the units d, h, m, s, ms, us"
    )]
    Syntax(String),
    #[error("`{text}`: the {part} {number} exceeds {}", u32::MAX)]
    TooLarge {
        text: String,
        part: &'static str,
        number: String,
    },
    #[error("`{text}`: {flaw}")]
    FlawOfText { text: String, flaw: QuotaFlaw },
}

impl QuotaError {
    pub(super) fn syntax(text: &str) -> Self {
        Self(QuotaErrorKind::Syntax(excerpt(text)))
    }

    /// Returns the error for a number in a text that does not fit into 32 bits. `part` is `limit`,
    /// `burst` or `queue`.
    pub(super) fn too_large(text: &str, part: &'static str, number: &str) -> Self {
        Self(QuotaErrorKind::TooLarge {
            text: excerpt(text),
            part,
            number: excerpt(number),
        })
    }

    /// Adds the text from which the numbers were parsed.
    pub(super) fn of_text(self, text: &str) -> Self {
        match self.0 {
            QuotaErrorKind::Flaw(flaw) => Self(QuotaErrorKind::FlawOfText {
                text: excerpt(text),
                flaw,
            }),
            _ => self,
        }
    }

    fn flaw(&self) -> Option<QuotaFlaw> {
        match self.0 {
            QuotaErrorKind::Flaw(flaw) | QuotaErrorKind::FlawOfText { flaw, .. } => Some(flaw),
            QuotaErrorKind::Syntax(_) | QuotaErrorKind::TooLarge { .. } => None,
        }
    }

    /// Returns whether a text could not be parsed.
    pub fn is_syntax(&self) -> bool {
        self.flaw().is_none()
    }

    /// Returns whether the limit, the burst or the queue is 0.
    pub fn is_zero(&self) -> bool {
        matches!(
            self.flaw(),
            Some(QuotaFlaw::ZeroLimit | QuotaFlaw::ZeroBurst | QuotaFlaw::ZeroQueue)
        )
    }

    /// Returns whether the period is zero, longer than ten years, or not a whole number of ticks.
    pub fn is_period(&self) -> bool {
        matches!(
            self.flaw(),
            Some(QuotaFlaw::PeriodNotInTicks { .. } | QuotaFlaw::PeriodTooLong { .. })
        )
    }

    /// Returns whether an empty bucket would take more than ten years to fill.
    pub fn is_fill_time(&self) -> bool {
        matches!(self.flaw(), Some(QuotaFlaw::FillTooLong { .. }))
    }

    /// Returns whether a burst was set for a window, which has none.
    pub fn is_window_burst(&self) -> bool {
        matches!(self.flaw(), Some(QuotaFlaw::BurstOfWindow))
    }

    /// Returns whether a queue was set for a window or a concurrency limit. Only a token bucket has one.
    pub fn is_window_queue(&self) -> bool {
        matches!(self.flaw(), Some(QuotaFlaw::QueueOfWindow))
    }

    /// Returns whether the last place in the queue would wait for more than an hour.
    pub fn is_queue_time(&self) -> bool {
        matches!(self.flaw(), Some(QuotaFlaw::QueueTooLong { .. }))
    }

    /// Returns whether a quota cannot reserve, since it is a window or has a queue, or whether the time of
    /// reservations is not from a second to a day.
    pub fn is_reservation(&self) -> bool {
        matches!(
            self.flaw(),
            Some(
                QuotaFlaw::ReservingQueue
                    | QuotaFlaw::ReservingWindow
                    | QuotaFlaw::ReservationTime { .. }
            )
        )
    }

    /// Returns whether the arithmetic would exceed 2⁵³ and could not be exact.
    pub fn is_inexact(&self) -> bool {
        matches!(self.flaw(), Some(QuotaFlaw::Inexact { .. }))
    }
}

impl From<QuotaFlaw> for QuotaError {
    fn from(flaw: QuotaFlaw) -> Self {
        Self(flaw.into())
    }
}

/// Returns the text of a period. `Debug` would write a zero period as `0ns`, a unit that quotas do not have.
fn shown(period: Duration) -> String {
    match period.is_zero() {
        true => "0s".to_owned(),
        false => format!("{period:?}"),
    }
}

/// The rule that a quota's numbers break. It is `Copy`, so that a `const fn` can return it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QuotaFlaw {
    #[error("{}", self.summary())]
    ZeroLimit,
    #[error("{}", self.summary())]
    ZeroBurst,
    #[error("{}", self.summary())]
    ZeroQueue,
    #[error("{}", self.summary())]
    BurstOfWindow,
    #[error("{}", self.summary())]
    QueueOfWindow,
    #[error("a period of {} is not a positive multiple of {tick:?}: {}", shown(*period), self.summary())]
    PeriodNotInTicks { period: Duration, tick: Duration },
    #[error("a period of {period:?} is too long: {}", self.summary())]
    PeriodTooLong { period: Duration },
    #[error("an empty bucket would take {seconds} s to fill: {}", self.summary())]
    FillTooLong { seconds: u64 },
    #[error("the last place in a queue of {queue} would wait for {seconds} s: {}", self.summary())]
    QueueTooLong { queue: u32, seconds: u64 },
    #[error("{}", self.summary())]
    ReservingQueue,
    #[error("{}", self.summary())]
    ReservingWindow,
    #[error("a reservation of {} is invalid: {}", shown(*ttl), self.summary())]
    ReservationTime { ttl: Duration },
    #[error("{} × {} is 2^53 or more: {}", factors[0], factors[1], self.summary())]
    Inexact { factors: [u64; 2] },
}

impl QuotaFlaw {
    /// Returns the error's text without its numbers, which a `const` panic cannot format.
    pub(super) const fn summary(self) -> &'static str {
        match self {
            Self::ZeroLimit => {
                "a quota's limit must be at least 1; a quota cannot deny every request"
            }
            Self::ZeroBurst => {
                "a quota's burst must be at least 1: a bucket that holds no token admits nothing"
            }
            Self::ZeroQueue => {
                "a quota's queue must be at least 1; leave it out to deny at once what does not fit"
            }
            Self::BurstOfWindow => {
                "only a token bucket has a burst; a window admits its whole limit at once"
            }
            Self::QueueOfWindow => {
                "only a token bucket has a queue, since other quotas do not refill token by token"
            }
            Self::PeriodNotInTicks { .. } => {
                "token buckets count in microseconds, windows in milliseconds"
            }
            Self::PeriodTooLong { .. } => "a quota's period must be at most ten years",
            Self::FillTooLong { .. } => {
                "a bucket must fill within ten years; use a smaller burst or a higher rate"
            }
            Self::QueueTooLong { .. } => {
                "a queue must be served within an hour; use a shorter queue or a higher rate"
            }
            Self::ReservingQueue => {
                "a quota cannot both queue and reserve; put the queue into a policy of its own"
            }
            Self::ReservingWindow => {
                "a window does not reserve, since its charges can be settled without that; remove \
                 `reserve`"
            }
            Self::ReservationTime { .. } => {
                "it must be a whole number of milliseconds from a second to a day"
            }
            Self::Inexact { .. } => {
                "the quota cannot be counted exactly; use a smaller burst, queue or limit, \
                 or numbers with a larger common divisor"
            }
        }
    }
}
