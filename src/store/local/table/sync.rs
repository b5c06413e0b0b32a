//! The mutex and the atomics of the table. Under `cfg(tollgate_loom)` they are those of the model
//! checker loom. (Some dependencies do not build under loom's own `cfg(loom)`.)

#[cfg(all(test, tollgate_loom))]
pub(super) use self::model::*;
#[cfg(not(all(test, tollgate_loom)))]
pub(super) use self::system::*;

#[cfg(not(all(test, tollgate_loom)))]
mod system {
    pub(in super::super) use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    pub(in super::super) use std::thread::yield_now;

    pub(in super::super) use parking_lot::{Mutex, MutexGuard};
}

#[cfg(all(test, tollgate_loom))]
mod model {
    pub(in super::super) use loom::sync::MutexGuard;
    pub(in super::super) use loom::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    pub(in super::super) use loom::thread::yield_now;

    #[derive(Default)]
    pub(in super::super) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in super::super) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a panic ends the model")
        }
    }
}
