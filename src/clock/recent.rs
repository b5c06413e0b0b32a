//! The time read quickly, by the processor's own counter.
//!
//! Whoever reads the system's clock waits until all that was begun before is done. So the processor
//! cannot fetch one count from memory while it is deciding upon another, which costs more than the
//! reading itself. Nothing waits for the counter; but it may drift, or stop while the machine sleeps.
//! So each thread goes on from its last reading of the system's clock for a millisecond at most, and
//! by a rate that it has measured twice.
//!
//! That is never ahead of the system's clock, but may be [`LATE`] behind it.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::Instant;

use tokio::runtime::{Handle, RuntimeFlavor};

static COUNTER: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

/// An instant, and what it is taken for: so much that those before it have their place too. By a
/// paused clock there are such.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const STARTED: u64 = 1 << 62;

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace::UNKNOWN) };
    /// For how many readings more this thread has to ask the system's clock.
    static UNPACED: Cell<u32> = const { Cell::new(0) };
}

/// Nanoseconds since some instant before, by the system's clock. Follows `tokio::time::pause`.
pub(super) fn exact() -> u64 {
    let now = tokio::time::Instant::now().into_std();
    let start = *START;
    let (since, until) = (
        now.saturating_duration_since(start).as_nanos() as u64,
        start.saturating_duration_since(now).as_nanos() as u64,
    );
    STARTED + since - until
}

/// The same as of a moment ago: at most [`LATE`] before, and never after what [`exact`] says next.
#[inline]
pub(super) fn recent() -> u64 {
    if UNPACED.get() > 0 {
        UNPACED.set(UNPACED.get() - 1);
        return exact();
    }
    let ticks = COUNTER.raw();
    PACE.get().at(ticks).unwrap_or_else(renew)
}

#[cold]
fn renew() -> u64 {
    // Only a runtime of one thread can pause its time.
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::CurrentThread)) {
        PACE.set(Pace::UNKNOWN);
        UNPACED.set(1_000);
        return exact();
    }
    let before = COUNTER.raw();
    let nanos = exact();
    let after = COUNTER.raw();
    PACE.set(PACE.get().renewed(before, nanos, after));
    nanos
}

/// How a counter and the system's clock go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    /// The system's clock, and the counter before and after it was read.
    nanos: u64,
    before: u64,
    after: u64,
    /// Nanoseconds a tick, in units of 2⁻³², rounded down. None is known if it is 0.
    rate: u64,
    /// For how many ticks to go on by it.
    good_for: u64,
}

/// How long a reading is gone on from, in nanoseconds.
const LONGEST: u64 = 1_000_000;

/// How long it may be until the next one, to measure by both.
const IDLE: u64 = 1_000 * LONGEST;

/// What part of the time between two readings each may take, and of [`LONGEST`]. A rate is then too
/// low by twice that at most.
const CERTAIN: u64 = 4_096;

/// How late [`recent`] may be, in microseconds, rounded up.
pub(crate) const LATE: u64 = 3 * LONGEST / CERTAIN / 1_000 + 2;

impl Pace {
    const UNKNOWN: Self = Self {
        nanos: 0,
        before: 0,
        after: 0,
        rate: 0,
        good_for: 0,
    };

    /// The system's clock when the counter shows `ticks`, if that is near enough to the last
    /// reading. Counted from after that, by a rate that is rather too low: so it is never ahead.
    #[inline]
    fn at(&self, ticks: u64) -> Option<u64> {
        let since = ticks.wrapping_sub(self.after);
        // At most a millisecond, so the product is small.
        (since < self.good_for).then(|| self.nanos + ((since * self.rate) >> 32))
    }

    /// The pace after one more reading.
    fn renewed(self, before: u64, nanos: u64, after: u64) -> Self {
        let read = Self {
            nanos,
            before,
            after,
            rate: self.rate,
            good_for: 0,
        };
        let passed = nanos.saturating_sub(self.nanos);
        // As many as may have passed meanwhile.
        let ticks = after.saturating_sub(self.before);
        if self.nanos == 0 || passed == 0 || passed > IDLE || ticks == 0 {
            return read;
        }
        let rate = (u128::from(passed) << 32) / u128::from(ticks);
        let longest = (u128::from(LONGEST) << 32) / rate.max(1);
        let (Ok(rate), Ok(longest)) = (u64::try_from(rate), u64::try_from(longest)) else {
            return read;
        };
        let uncertain = self.uncertain().max(read.uncertain());
        if uncertain > ticks.min(longest) / CERTAIN {
            // Too soon, or one of the two was interrupted: the better one is worth keeping.
            return match read.uncertain() < self.uncertain() {
                true => read,
                false => Self {
                    good_for: 0,
                    ..self
                },
            };
        }
        // A counter that goes at another rate than before is not to be relied on.
        let agrees = rate.abs_diff(self.rate) <= rate / 128;
        Self {
            rate,
            good_for: if agrees {
                ticks.saturating_mul(2).min(longest)
            } else {
                0
            },
            ..read
        }
    }

    /// During how many ticks the system's clock was read at some instant.
    fn uncertain(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }
}
