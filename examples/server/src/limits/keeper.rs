use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tollgate::Limits;

use super::book::{Book, Condition, WriteError};
use super::runtime::Runtime;
use super::subject::Subject;
use crate::meter;

/// How long a change that another replica made may go unseen.
const INTERVAL: Duration = Duration::from_millis(250);

/// Knows the run-time limits, as they were a moment ago.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(Arc<State>);

#[derive(Debug)]
struct State {
    book: Book,
    runtime: ArcSwap<Runtime>,
    /// Whether the book could not be read when it was last tried.
    is_outdated: AtomicBool,
    /// Held while the book is read, so that nothing older comes after.
    reading: tokio::sync::Mutex<()>,
}

impl Keeper {
    pub(crate) fn new(book: Book) -> Self {
        Self(Arc::new(State {
            book,
            runtime: ArcSwap::default(),
            is_outdated: AtomicBool::new(false),
            reading: tokio::sync::Mutex::default(),
        }))
    }

    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        self.0.runtime.load_full()
    }

    /// Whether changes may have been missed.
    pub(crate) fn is_outdated(&self) -> bool {
        self.0.is_outdated.load(Ordering::Relaxed)
    }

    /// Reads the book again and again, for ever.
    pub(crate) async fn keep(self) {
        loop {
            self.refresh().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Reads what was written until now. What is known stays if it cannot be read.
    pub(crate) async fn refresh(&self) {
        let state = &*self.0;
        let _reading = state.reading.lock().await;
        let known = self.runtime();
        let read = state.book.read(known.revision.as_deref()).await;
        let was_outdated = state.is_outdated.swap(read.is_err(), Ordering::Relaxed);
        match read {
            Ok(None) => {}
            Ok(Some(runtime)) => {
                meter::runtime_limits(runtime.entries().count());
                state.runtime.store(Arc::new(runtime));
            }
            // Once, not every time.
            Err(error) if !was_outdated => {
                tracing::warn!(%error, "run-time limits cannot be read: those known stay");
            }
            Err(_) => {}
        }
        if was_outdated && !self.is_outdated() {
            tracing::info!("run-time limits can be read again");
        }
    }

    /// Sets a limit, or deletes it. When this returns, it is in force here.
    pub(crate) async fn write(
        &self,
        subject: &Subject,
        limits: Option<&Limits>,
        condition: &Condition,
    ) -> Result<String, WriteError> {
        let version = self.0.book.write(subject, limits, condition).await?;
        self.refresh().await;
        Ok(version)
    }
}
