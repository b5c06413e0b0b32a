//! A cached reading of the time, which the processor's own counter extends.
//!
//! A reading of the system's clock waits until all earlier instructions are done, so the processor
//! cannot fetch one count from memory while it decides upon another: that costs more than the reading
//! itself. The counter takes a third of the time to read, and on most processors no wait; but it may
//! drift, or stop while the machine sleeps. So each thread extends its last reading of the system's
//! clock for a millisecond at most, and by a rate that it has measured twice.
//!
//! The result is never ahead of the system's clock, and at most [`LATE`] microseconds behind it.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::Instant;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use super::wall::{self, SLEW};

static COUNTER: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

/// The origin of the monotonic scale, which is offset by 2^62 ns: instants before the origin, which
/// a paused clock may show, do not underflow.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const STARTED: u64 = 1 << 62;

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace::UNKNOWN) };
}

/// Calibrates the counter. That takes up to a fifth of a second, for which no check should wait.
pub(super) fn prepare() {
    LazyLock::force(&COUNTER);
}

/// Nanoseconds by the system's monotonic clock. Follows `tokio::time::pause`.
pub(super) fn monotonic() -> u64 {
    let now = tokio::time::Instant::now().into_std();
    let start = *START;
    match now.checked_duration_since(start) {
        Some(since) => STARTED + since.as_nanos() as u64,
        None => STARTED - start.duration_since(now).as_nanos() as u64,
    }
}

/// Whether this thread's time may be paused, which only a runtime of one thread can do, and only if
/// tokio was built with `test-util`. A thread enters and leaves runtimes, so each reading has to ask.
#[inline]
pub(super) fn is_virtual() -> bool {
    CAN_PAUSE && is_in_runtime_of_one_thread()
}

#[cold]
fn is_in_runtime_of_one_thread() -> bool {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    matches!(flavor, Ok(RuntimeFlavor::CurrentThread))
}

/// Whether tokio was built with `test-util`: a runtime's builder has the method `start_paused` then,
/// which takes precedence over the one of this trait.
const CAN_PAUSE: bool = {
    #[allow(dead_code, reason = "tokio's own method is called where it exists")]
    trait NeverPaused {
        fn start_paused(&mut self, _: bool) {}
    }
    impl NeverPaused for Builder {}

    const fn returns_something<'a, T>(_: fn(&'a mut Builder) -> T) -> bool {
        size_of::<T>() > 0
    }
    returns_something(|builder| builder.start_paused(true))
};

/// Nanoseconds since the Unix epoch, by a cached reading: at most [`LATE`] before, and never after
/// what [`wall::now`] returns next.
#[inline]
pub(super) fn recent() -> u64 {
    if is_virtual() {
        return wall::now();
    }
    let pace = PACE.get();
    if pace.good_for == 0 {
        return renew();
    }
    pace.at(COUNTER.raw()).unwrap_or_else(renew)
}

#[cold]
fn renew() -> u64 {
    let before = COUNTER.raw();
    let nanos = wall::now();
    let after = COUNTER.raw();
    // While the reading is extended, the time may be slewed back by so much.
    let lowest = nanos - LONGEST / SLEW;
    PACE.set(PACE.get().renewed(before, lowest, after));
    nanos
}

/// A reading of the system's clock, and the rate at which the counter extends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    /// The system's clock in nanoseconds, and the counter before and after it was read.
    nanos: u64,
    before: u64,
    after: u64,
    /// Nanoseconds a tick, in units of 2⁻³², rounded down; 0 before the rate was measured.
    rate: u64,
    /// The number of ticks for which the reading may be extended.
    good_for: u64,
}

/// The longest time for which a reading is extended, in nanoseconds.
const LONGEST: u64 = 1_000_000;

/// The longest time between two readings from which a rate is measured, in nanoseconds.
const IDLE: u64 = 1_000 * LONGEST;

/// A reading may take at most one part in this many of the time between two readings, and of
/// [`LONGEST`]. A measured rate is then too low by at most two such parts.
const CERTAIN: u64 = 4_096;

/// How late [`recent`] may be, in microseconds, rounded up.
pub(crate) const LATE: u64 = (4 * LONGEST / CERTAIN + LONGEST / SLEW) / 1_000 + 2;

impl Pace {
    const UNKNOWN: Self = Self {
        nanos: 0,
        before: 0,
        after: 0,
        rate: 0,
        good_for: 0,
    };

    /// The system's clock when the counter shows `ticks`, if the reading may be extended so far. Never
    /// ahead: ticks are counted from after the reading, without the first one, of which an unknown part
    /// had passed, and by a rate that is rounded down.
    #[inline]
    fn at(&self, ticks: u64) -> Option<u64> {
        let since = ticks.wrapping_sub(self.after);
        // At most a millisecond, so the product is small.
        (since < self.good_for).then(|| self.nanos + ((since.saturating_sub(1) * self.rate) >> 32))
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
        // The fewest nanoseconds and the most ticks that may have passed, so that the rate is never too
        // high.
        let passed = nanos.saturating_sub(self.nanos).saturating_sub(1);
        let Some(ticks) = after.checked_sub(self.before) else {
            return read;
        };
        if self.nanos == 0 || passed == 0 || passed > IDLE {
            return read;
        }
        let ticks = ticks.saturating_add(1);
        let rate = (u128::from(passed) << 32) / u128::from(ticks);
        let longest = (u128::from(LONGEST) << 32) / rate.max(1);
        let (Ok(rate), Ok(longest)) = (u64::try_from(rate), u64::try_from(longest)) else {
            return read;
        };
        let uncertain = self.uncertain().max(read.uncertain());
        if uncertain > ticks.min(longest) / CERTAIN {
            // The readings are too close together, or one was interrupted: keep the more certain one.
            return match read.uncertain() < self.uncertain() {
                true => read,
                false => Self {
                    good_for: 0,
                    ..self
                },
            };
        }
        // A counter that changes its rate is not relied on until two measurements agree.
        let agrees = self.rate > 0 && rate.abs_diff(self.rate) <= rate / 128;
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

    /// The number of ticks within which the system's clock was read.
    fn uncertain(&self) -> u64 {
        self.after.saturating_sub(self.before).saturating_add(1)
    }
}

#[cfg(all(test, not(tollgate_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A counter that goes at one rate, and a system's clock, at instants in 2⁻²⁰ nanoseconds.
    #[derive(Clone, Copy, Debug)]
    struct Machine {
        /// Ticks a second.
        rate: u64,
        /// The first value of the counter, and the part of a tick that had passed by then.
        first: u64,
        part: u64,
        instant: u128,
    }

    const NANO: u128 = 1 << 20;
    const SECOND: u128 = NANO * 1_000_000_000;

    impl Machine {
        fn ticks(&self) -> u64 {
            let parts =
                self.instant * u128::from(self.rate) + u128::from(self.part) * SECOND / 1_000;
            self.first.wrapping_add((parts / SECOND) as u64)
        }

        fn nanos(&self) -> u64 {
            STARTED + (self.instant / NANO) as u64
        }

        fn pass(&mut self, nanos: u64, part: u64) {
            self.instant += u128::from(nanos) * NANO + u128::from(part);
        }
    }

    fn machine() -> impl Strategy<Value = Machine> {
        let rates = prop_oneof![
            // The rates of processors and of their slower counters.
            400_000_000..6_000_000_000_u64,
            1_000_000..100_000_000_u64,
            Just(1_000_000_000),
            1_000..1_000_000_u64,
        ];
        let firsts = prop_oneof![Just(0), 0..u64::MAX / 2, Just(u64::MAX - 1_000_000)];
        (rates, firsts, 0..1_000_u64).prop_map(|(rate, first, part)| Machine {
            rate,
            first,
            part,
            instant: 0,
        })
    }

    /// The time before each reading, in nanoseconds; and the time that it takes from the counter to the
    /// system's clock and back, where the reading is not extended.
    fn readings() -> impl Strategy<Value = Vec<(u64, u64, u64, u64)>> {
        let pause = prop_oneof![
            8 => 0..2_000_u64,
            4 => 0..400_000_u64,
            2 => 0..2_000_000_u64,
            1 => 0..3_000_000_000_u64,
        ];
        let length = prop_oneof![9 => 0..60_u64, 1 => 0..2_000_000_u64];
        prop::collection::vec((pause, length.clone(), length, 0..NANO as u64), 1..400)
    }

    /// Reads the time as [`recent`] does.
    fn read(pace: &mut Pace, machine: &mut Machine, (there, back, part): (u64, u64, u64)) -> u64 {
        if let Some(nanos) = pace.at(machine.ticks()) {
            return nanos;
        }
        let before = machine.ticks();
        machine.pass(there, part);
        let nanos = machine.nanos();
        machine.pass(back, part / 2);
        *pace = pace.renewed(before, nanos, machine.ticks());
        nanos
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn steady_counter_is_never_ahead_and_hardly_late(
            mut machine in machine(), readings in readings(),
        ) {
            let mut pace = Pace::UNKNOWN;
            for (pause, there, back, part) in readings {
                machine.pass(pause, part);
                let at = machine.nanos();
                let by_counter = pace.at(machine.ticks());
                if let Some(nanos) = by_counter {
                    prop_assert!(nanos <= at, "{} ns ahead", nanos - at);
                    prop_assert!(at / 1_000 - nanos / 1_000 <= LATE, "{} ns late", at - nanos);
                }
                read(&mut pace, &mut machine, (there, back, part));
            }
        }

        #[test]
        fn jumping_counter_misleads_for_a_millisecond_at_most(
            mut machine in machine(),
            readings in readings(),
            jumps in prop::collection::vec(
                prop_oneof![
                    20 => Just(0_i64), 1 => -1_000_000..1_000_000_i64, 1 => any::<i64>(),
                ],
                400,
            ),
        ) {
            let mut pace = Pace::UNKNOWN;
            // The counter as of the last exact reading, and when that was.
            let mut exact_at = 0;
            for ((pause, there, back, part), jump) in readings.into_iter().zip(jumps) {
                machine.pass(pause, part);
                machine.first = machine.first.wrapping_add_signed(jump);
                let at = machine.nanos();
                match pace.at(machine.ticks()) {
                    Some(nanos) => prop_assert!(nanos - exact_at <= LONGEST),
                    None => {
                        exact_at = read(&mut pace, &mut machine, (there, back, part));
                        prop_assert!(exact_at >= at);
                    }
                }
            }
        }
    }

    /// A pace that has been measured twice.
    fn steady(machine: &mut Machine) -> Pace {
        let mut pace = Pace::UNKNOWN;
        for _ in 0..3 {
            machine.pass(500_000, 0);
            read(&mut pace, machine, (20, 20, 0));
        }
        assert!(pace.at(machine.ticks()).is_some());
        pace
    }

    const USUAL: Machine = Machine {
        rate: 3_000_000_000,
        first: 1 << 40,
        part: 0,
        instant: 0,
    };

    #[test]
    fn counter_that_ran_during_sleep_is_measured_again() {
        for asleep in [1 << 20, 1 << 32, 1 << 42, 1 << 62] {
            for is_new in [false, true] {
                let mut machine = USUAL;
                let mut pace = Pace::UNKNOWN;
                match is_new {
                    true => drop(read(&mut pace, &mut machine, (20, 20, 0))),
                    false => pace = steady(&mut machine),
                }
                machine.first += asleep;
                machine.pass(100, 0);
                read(&mut pace, &mut machine, (20, 20, 0));
                machine.pass(10_000_000, 0);
                let at = machine.nanos();
                let nanos = pace.at(machine.ticks());
                assert!(
                    nanos.is_none_or(|nanos| at - nanos <= 1_000),
                    "{asleep} ticks: stands still"
                );
            }
        }
    }

    #[test]
    fn counter_with_another_rate_is_measured_twice() {
        let mut machine = USUAL;
        let mut pace = steady(&mut machine);
        machine.first -= 1 << 39;
        assert_eq!(pace.at(machine.ticks()), None);
        read(&mut pace, &mut machine, (20, 20, 0));
        assert_eq!(pace.at(machine.ticks()), None);

        pace = steady(&mut machine);
        let ticks = machine.ticks();
        machine.rate /= 2;
        machine.first = machine
            .first
            .wrapping_add(ticks.wrapping_sub(machine.ticks()));
        machine.pass(4_000_000, 0);
        read(&mut pace, &mut machine, (20, 20, 0));
        assert_eq!(pace.at(machine.ticks()), None, "another rate than before");
        machine.pass(500_000, 0);
        read(&mut pace, &mut machine, (20, 20, 0));
        assert!(pace.at(machine.ticks()).is_some());
    }
}
