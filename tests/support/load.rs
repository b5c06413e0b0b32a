//! Background load: tasks that repeat requests until the test stops them.
//!
//! ```ignore
//! let mut load = Load::new();
//! load.spawn(|running| async move {
//!     while running.get() {
//!         // Make a request.
//!     }
//! });
//! // Disturb the server meanwhile.
//! load.stop().await;
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

/// Tasks that run until [`Load::stop`]. Dropping it aborts them.
pub(crate) struct Load<T> {
    running: Running,
    tasks: JoinSet<T>,
}

/// Tells a task whether to go on.
#[derive(Clone)]
pub(crate) struct Running(Arc<AtomicBool>);

impl Running {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<T: Send + 'static> Load<T> {
    pub(crate) fn new() -> Self {
        Self {
            running: Running(Arc::new(AtomicBool::new(true))),
            tasks: JoinSet::new(),
        }
    }

    /// Starts a task, which must end soon after `running.get()` returns `false`.
    pub(crate) fn spawn<F>(&mut self, task: impl FnOnce(Running) -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.tasks.spawn(task(self.running.clone()));
    }

    /// Tells the tasks to end, waits for them and returns their results, in no order. Panics if a
    /// task has panicked.
    pub(crate) async fn stop(self) -> Vec<T> {
        self.running.0.store(false, Ordering::Relaxed);
        self.tasks.join_all().await
    }
}
