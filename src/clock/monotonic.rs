//! The operating system's monotonic clock, in nanoseconds.

use std::sync::LazyLock;
use std::time::Instant;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The reading at [`ORIGIN`]. It is large, so that an instant before the origin, which a paused Tokio
/// clock can show, does not underflow.
const ORIGIN_NANOS: u64 = 1 << 62;

/// Returns nanoseconds of the monotonic clock. Follows `tokio::time::pause`.
pub(super) fn now() -> u64 {
    let now = tokio::time::Instant::now().into_std();
    let origin = *ORIGIN;
    match now.checked_duration_since(origin) {
        Some(since) => ORIGIN_NANOS + since.as_nanos() as u64,
        None => ORIGIN_NANOS - origin.duration_since(now).as_nanos() as u64,
    }
}

/// Returns whether the time of this thread may be paused: it is inside a current-thread runtime, and
/// Tokio was built with `test-util`. A thread can enter and leave runtimes, so the result must not be
/// cached.
#[inline]
pub(super) fn may_be_paused() -> bool {
    CAN_PAUSE && is_in_current_thread_runtime()
}

#[cold]
fn is_in_current_thread_runtime() -> bool {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    matches!(flavor, Ok(RuntimeFlavor::CurrentThread))
}

/// Whether Tokio was built with `test-util`. The runtime's builder then has the inherent method
/// `start_paused`, which takes precedence over the method of the trait below.
const CAN_PAUSE: bool = {
    #[allow(dead_code, reason = "Tokio's own method is called where it exists")]
    trait NeverPaused {
        fn start_paused(&mut self, _: bool) {}
    }
    impl NeverPaused for Builder {}

    const fn returns_a_value<'a, T>(_: fn(&'a mut Builder) -> T) -> bool {
        size_of::<T>() > 0
    }
    returns_a_value(|builder| builder.start_paused(true))
};
