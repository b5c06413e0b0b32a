//! The time since the Unix epoch, without the steps of the wall clock.
//!
//! Windows are aligned to the Unix epoch, so they must follow the wall clock. But the wall clock may
//! step, and a step forward would fill every bucket. So the time advances with the monotonic clock. A
//! difference from the wall clock is slewed: the time runs faster or slower by one part in [`MAX_SLEW`]
//! until the two agree. That is less than the kernel itself may slew the monotonic clock (500 parts per
//! million, adjtimex(2)).
//!
//! The monotonic clock of Linux stops while the machine is suspended. The kernel counts the duration of
//! suspensions, and this module adds it at once, since that time has really passed.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};
use std::thread::yield_now;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::monotonic::{self, may_be_paused};

/// The inverse of the slew rate: 1/4096 is 244 parts per million, or 21 seconds a day.
pub(super) const MAX_SLEW: u64 = 4_096;

/// The largest difference from the wall clock that is ignored, in nanoseconds. The two clocks are not
/// read at the same instant.
const TOLERANCE: u64 = 1_000_000;

/// The time between two comparisons with the wall clock, in nanoseconds.
const COMPARISON_INTERVAL: u64 = 1_000_000_000;

/// The shortest suspension that is recognized, in nanoseconds. The two clocks that measure it are not
/// read at the same instant.
const MIN_SUSPENSION: u64 = 1_000_000_000;

static WALL: LazyLock<Wall> = LazyLock::new(Wall::new);

/// Returns nanoseconds since the Unix epoch. Follows `tokio::time::pause`.
pub(super) fn now() -> u64 {
    let wall = &*WALL;
    let (monotonic, now) = wall.read();
    let compared_at = wall.compared_at.load(Ordering::Relaxed);
    if monotonic.saturating_sub(compared_at) >= COMPARISON_INTERVAL && !may_be_paused() {
        wall.compare(compared_at, monotonic);
    }
    now
}

/// Maps the monotonic clock to the time. All fields are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    /// A reading of the monotonic clock.
    at: u64,
    /// The time at that instant.
    time: u64,
    /// The lead of the wall clock over the time, which is being slewed.
    error: i64,
}

impl Anchor {
    /// Returns the time when the monotonic clock shows `monotonic`.
    fn time_at(&self, monotonic: u64) -> u64 {
        let Some(passed) = monotonic.checked_sub(self.at) else {
            // A paused clock may show an earlier instant.
            return self.time.saturating_sub(self.at - monotonic);
        };
        let max = (passed / MAX_SLEW) as i64;
        let slewed = self.error.clamp(-max, max);
        (self.time + passed).saturating_add_signed(slewed)
    }

    /// Returns the lead of the wall clock over the time, after a suspension was added.
    fn error(&self, monotonic: u64, wall: u64, suspended: u64) -> i64 {
        let time = self.time_at(monotonic).saturating_add(suspended);
        let error = wall.wrapping_sub(time) as i64;
        if error.unsigned_abs() <= TOLERANCE {
            0
        } else {
            error
        }
    }

    /// Returns the anchor to use from `monotonic` on.
    fn moved(&self, monotonic: u64, suspended: u64, error: i64) -> Self {
        Self {
            at: monotonic,
            time: self.time_at(monotonic).saturating_add(suspended),
            error,
        }
    }
}

/// The anchor of the process, guarded by a sequence lock: the sequence number is odd while the anchor is
/// written, and a reader that sees it change reads again.
struct Wall {
    sequence: AtomicU64,
    at: AtomicU64,
    time: AtomicU64,
    error: AtomicI64,
    compared_at: AtomicU64,
    /// The duration of all suspensions until the last comparison, in nanoseconds.
    suspended: Mutex<u64>,
}

impl Wall {
    fn new() -> Self {
        let at = monotonic::now();
        Self {
            sequence: AtomicU64::new(0),
            at: AtomicU64::new(at),
            time: AtomicU64::new(wall_clock()),
            error: AtomicI64::new(0),
            compared_at: AtomicU64::new(at),
            suspended: Mutex::new(suspended()),
        }
    }

    fn anchor(&self) -> Anchor {
        Anchor {
            at: self.at.load(Ordering::Relaxed),
            time: self.time.load(Ordering::Relaxed),
            error: self.error.load(Ordering::Relaxed),
        }
    }

    /// Returns the monotonic clock and the time.
    ///
    /// The clock is read while the sequence number guards the anchor. So no thread applies an old anchor
    /// to an instant after the start of a new one, and the time never steps back between threads.
    fn read(&self) -> (u64, u64) {
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            if sequence.is_multiple_of(2) {
                let anchor = self.anchor();
                let monotonic = monotonic::now();
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == sequence {
                    return (monotonic, anchor.time_at(monotonic));
                }
            }
            yield_now();
        }
    }

    /// Compares the time with the wall clock, and moves the anchor if they differ. Does nothing if another
    /// thread compares them.
    #[cold]
    fn compare(&self, compared_at: u64, monotonic: u64) {
        let order = Ordering::Relaxed;
        let compared = self
            .compared_at
            .compare_exchange(compared_at, monotonic, order, order);
        if compared.is_err() {
            return;
        }
        let mut known = self.suspended.lock();
        let suspended = match suspended().saturating_sub(*known) {
            passed @ MIN_SUSPENSION.. => passed,
            _ => 0,
        };
        let (monotonic, _) = self.read();
        let error = self.anchor().error(monotonic, wall_clock(), suspended);
        if suspended > 0 || error != self.error.load(Ordering::Relaxed) {
            *known += suspended;
            self.move_anchor(suspended, error);
        }
    }

    /// Writes a new anchor. The caller holds the mutex, so that no other thread writes.
    fn move_anchor(&self, suspended: u64, error: i64) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        // Every thread sees the odd number before the clock is read.
        fence(Ordering::SeqCst);
        let anchor = self.anchor().moved(monotonic::now(), suspended, error);
        self.at.store(anchor.at, Ordering::Relaxed);
        self.time.store(anchor.time, Ordering::Relaxed);
        self.error.store(anchor.error, Ordering::Relaxed);
        self.sequence.store(sequence + 2, Ordering::Release);
    }
}

fn wall_clock() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.unwrap_or_default().as_nanos() as u64
}

/// Returns how long the machine has been suspended since it was started, in nanoseconds.
#[cfg(target_os = "linux")]
fn suspended() -> u64 {
    use rustix::time::{ClockId, clock_gettime};

    let nanos = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    // In this order, the time between the two readings can only make the suspension shorter.
    let boot = nanos(ClockId::Boottime);
    boot.saturating_sub(nanos(ClockId::Monotonic))
}

/// On other systems no suspension is recognized.
#[cfg(not(target_os = "linux"))]
fn suspended() -> u64 {
    0
}

#[cfg(all(test, not(tollgate_loom)))]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const START: Anchor = Anchor {
        at: 1 << 62,
        time: 1_700_000_000 * SECOND,
        error: 0,
    };

    /// The events between two comparisons: how long the machine runs, how long it is suspended, and by how
    /// much the wall clock is stepped.
    fn events() -> impl Strategy<Value = Vec<(u64, u64, i64)>> {
        let suspended = prop_oneof![9 => Just(0), 1 => MIN_SUSPENSION..100_000 * SECOND];
        let step = prop_oneof![
            5 => Just(0_i64),
            2 => -(SECOND as i64)..SECOND as i64,
            1 => any::<i32>().prop_map(|step| i64::from(step) * 1_000),
        ];
        prop::collection::vec((SECOND..3_000 * SECOND, suspended, step), 1..50)
    }

    proptest! {
        #[test]
        fn time_advances_as_time_passes(events in events()) {
            let mut anchor = START;
            let (mut monotonic, mut wall) = (START.at, START.time as i64);
            for (ran, suspended, step) in events {
                let before = anchor.time_at(monotonic);
                monotonic += ran;
                wall += (ran + suspended) as i64 + step;
                let error = anchor.error(monotonic, wall as u64, suspended);
                anchor = anchor.moved(monotonic, suspended, error);
                let passed = anchor.time_at(monotonic) - before;
                // The time advances by the time that has really passed, within the slew.
                prop_assert!(passed <= ran + suspended + ran / MAX_SLEW);
                prop_assert!(passed >= ran + suspended - ran / MAX_SLEW);
            }
        }

        #[test]
        fn time_converges_to_the_wall_clock(step in -100 * SECOND as i64..100 * SECOND as i64) {
            let wall_at = |monotonic: u64| (START.time + (monotonic - START.at)).wrapping_add_signed(step);
            let (mut anchor, mut monotonic) = (START, START.at);
            for _ in 0..100 * MAX_SLEW {
                monotonic += SECOND;
                let error = anchor.error(monotonic, wall_at(monotonic), 0);
                anchor = anchor.moved(monotonic, 0, error);
            }
            let error = anchor.time_at(monotonic).abs_diff(wall_at(monotonic));
            prop_assert!(error <= TOLERANCE, "{error} ns");
        }
    }

    #[test]
    fn paused_clock_may_be_earlier_than_the_anchor() {
        assert_eq!(START.time_at(START.at - SECOND), START.time - SECOND);
    }

    #[test]
    fn comparison_finds_the_lead_of_the_wall_clock() {
        let wall = Wall::new();
        // The wall clock then leads by ten seconds.
        wall.time.fetch_sub(10 * SECOND, Ordering::Relaxed);
        let compared_at = wall.compared_at.load(Ordering::Relaxed);
        let (_, before) = wall.read();
        wall.compare(compared_at, compared_at + COMPARISON_INTERVAL);
        let error = wall.error.load(Ordering::Relaxed);
        assert!(
            error.unsigned_abs().abs_diff(10 * SECOND) < SECOND,
            "{error}"
        );
        let (_, after) = wall.read();
        assert!(
            before <= after && after < before + 5 * SECOND,
            "the time must not jump"
        );
        wall.compare(compared_at, compared_at + COMPARISON_INTERVAL);
        assert_eq!(
            wall.error.load(Ordering::Relaxed),
            error,
            "only one thread compares"
        );
    }

    #[test]
    fn moving_anchor_never_steps_time_back_between_threads() {
        let wall = Wall::new();
        let last = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let seen = last.load(Ordering::SeqCst);
                        let (_, now) = wall.read();
                        assert!(seen <= now, "{} ns back", seen - now);
                        last.fetch_max(now, Ordering::SeqCst);
                    }
                });
            }
            for round in 0..2_000 {
                let error = if round % 2 == 0 { -1 } else { 1 };
                wall.move_anchor(round, error * SECOND as i64);
            }
        });
    }
}
