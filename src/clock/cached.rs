//! A cached reading of the wall clock, which the processor's time stamp counter extends.
//!
//! A reading of the system's clock waits until all earlier instructions are done, so the processor
//! cannot load one entry from memory while it decides by another. The counter takes a third of the time
//! to read and does not wait (bench: `steps::clock`, `peers` with a million addresses). The counter may
//! change its rate, jump, or stop during a suspension, and its calibration drifts. So each thread
//! extends its last reading of the system's clock for at most [`MAX_EXTENSION`], and then reads it
//! again.

use std::cell::Cell;
use std::sync::LazyLock;

use super::monotonic::may_be_paused;
use super::wall::{self, MAX_SLEW};

/// The counter with its rate, which quanta measures once. Without a reliable counter, quanta reads the
/// system's clock.
static COUNTER: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading { nanos: 0, counter: 0 }) };
}

/// The longest time for which a reading is extended, in nanoseconds.
const MAX_EXTENSION: u64 = 1_000_000;

/// The error of an extended reading, in nanoseconds: the clock may be slewed meanwhile, and the measured
/// rate of the counter may be wrong by as much.
const MAX_ERROR: u64 = 2 * MAX_EXTENSION / MAX_SLEW;

/// How far a cached reading may lag, in microseconds.
pub(crate) const MAX_LAG: u64 = (2 * MAX_ERROR).div_ceil(1_000) + 1;

/// A reading of the wall clock.
#[derive(Clone, Copy)]
struct Reading {
    /// The time, less [`MAX_ERROR`].
    nanos: u64,
    /// The counter after the clock was read.
    counter: u64,
}

/// Calibrates the counter, which takes up to 200 ms. Called when a store is created, so that no check
/// waits for it.
pub(super) fn calibrate() {
    LazyLock::force(&COUNTER);
}

/// Returns nanoseconds since the Unix epoch: at most [`MAX_LAG`] before what [`wall::now`] returns next,
/// and not after it.
#[inline]
pub(super) fn now() -> u64 {
    if may_be_paused() {
        return wall::now();
    }
    let reading = READING.get();
    let since = COUNTER.delta_as_nanos(reading.counter, COUNTER.raw());
    match reading.nanos > 0 && since < MAX_EXTENSION {
        true => reading.nanos + since,
        false => read(),
    }
}

#[cold]
fn read() -> u64 {
    let nanos = wall::now();
    READING.set(Reading {
        nanos: nanos.saturating_sub(MAX_ERROR),
        counter: COUNTER.raw(),
    });
    nanos
}

#[cfg(all(test, not(tollgate_loom)))]
mod tests {
    use std::thread::yield_now;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn cached_reading_lags_by_at_most_the_maximum() {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            let before = wall::now();
            let cached = now();
            let after = wall::now();
            assert!(cached <= after, "{} ns ahead", cached - after);
            let lag = before.saturating_sub(cached);
            assert!(lag <= MAX_LAG * 1_000, "{lag} ns late");
            yield_now();
        }
    }
}
