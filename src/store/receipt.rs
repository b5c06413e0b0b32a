use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "redis")]
use tokio::runtime::Handle;
#[cfg(feature = "redis")]
use tokio::time::Instant;

use super::per_policy::PerPolicy;

/// A store's record of one charge, with which the charge can be settled or renewed.
///
/// A store returns it with the [`Verdict`](super::Verdict) of a check that
/// [reserves](super::Check::reserves). The marks have a meaning only for the store that made them.
#[derive(Clone, Debug)]
pub struct Receipt {
    marks: PerPolicy<[u64; 2]>,
    #[cfg(feature = "redis")]
    pub(crate) source: Option<Source>,
    release: Option<Arc<Release>>,
}

/// Where and when a server charged a check.
#[cfg(feature = "redis")]
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The number of the connection.
    pub(crate) connection: u64,
    /// The runtime of the connection: permits may be dropped outside of any.
    pub(crate) runtime: Handle,
    /// Taken before the check was sent.
    pub(crate) charged_at: Instant,
}

impl Receipt {
    /// Creates a receipt with two numbers for each policy of a check, in order.
    pub fn new(marks: impl IntoIterator<Item = [u64; 2]>) -> Self {
        Self {
            marks: marks.into_iter().collect(),
            #[cfg(feature = "redis")]
            source: None,
            release: None,
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn charged_by(self, source: Source) -> Self {
        let source = Some(source);
        Self { source, ..self }
    }

    /// Sets a closure that releases the charge if the receipt is dropped without being
    /// [kept](Receipt::keep): when the answer arrives after the deadline, or after the caller dropped the
    /// future.
    #[must_use]
    pub fn or_release(self, release: impl FnOnce() + Send + 'static) -> Self {
        let release: Box<dyn FnOnce() + Send> = Box::new(release);
        Self {
            release: Some(Arc::new(Release(Mutex::new(Some(release))))),
            ..self
        }
    }

    /// Keeps the charge: dropping the receipt does not release it any more.
    pub fn keep(&self) {
        if let Some(release) = &self.release {
            drop(release.take());
        }
    }

    /// Returns the two numbers of each policy, in order.
    pub fn marks(&self) -> &[[u64; 2]] {
        &self.marks
    }
}

/// Called when the last clone of a receipt is dropped, unless one was kept.
struct Release(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Release {
    fn take(&self) -> Option<Box<dyn FnOnce() + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(release) = self.take() {
            release();
        }
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Release")
    }
}
