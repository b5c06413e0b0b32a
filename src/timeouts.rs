//! Timeouts that rarely fire. All timeouts of a runtime share one Tokio timer.
//!
//! A Tokio timer of its own for each pending check would cost 5 to 17 % of the throughput of checks in
//! Redis: without other timers, each new one wakes the runtime's I/O driver (bench: `peers --only redis`,
//! most with 64 in flight). It would also panic if its runtime has shut down, although another runtime may
//! still poll the check.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// The resolution of Tokio's timers. A timeout may fire later by as much.
const RESOLUTION: Duration = Duration::from_millis(1);

/// The maximum number of timeouts in a queue. An entry is removed only once all earlier ones are, so a
/// timeout that is much longer than the others would keep their entries.
const MAX_QUEUE: usize = 65_536;

/// The timeouts of checks with similar deadlines.
#[derive(Default)]
pub(crate) struct Timeouts(Mutex<Vec<Arc<Queue>>>);

/// The timeouts of one runtime, in the order of their deadlines.
struct Queue {
    runtime: Id,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of entries that were removed from the front. An entry's number minus this is its index.
    removed: usize,
    /// Each deadline with the task to wake, or `None` if the timeout was dropped.
    entries: VecDeque<(Instant, Option<Waker>)>,
    /// Whether a [`Watcher`] runs, and when it wakes next.
    is_watched: bool,
    watcher_wakes_at: Option<Instant>,
}

/// One pending timeout.
enum Timeout {
    Queued {
        queue: Arc<Queue>,
        number: usize,
    },
    /// A deadline that is earlier than the last one in the queue has a timer of its own.
    Own(Pin<Box<Sleep>>),
}

impl Timeouts {
    /// Runs a future until the deadline. Returns `None` if the deadline passes first, or if the runtime
    /// that would wake this task shuts down.
    pub(crate) async fn timeout_at<T>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let (mut future, mut timeout) = (pin!(future), None::<Timeout>);
        let result = poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            self.poll(&mut timeout, deadline, context).map(|()| None)
        });
        result.await
    }

    fn poll(
        &self,
        timeout: &mut Option<Timeout>,
        deadline: Instant,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        if let Some(timeout) = timeout {
            return timeout.poll(context);
        }
        let queued = Handle::try_current()
            .ok()
            .and_then(|runtime| self.enqueue(&runtime, deadline, context.waker()));
        let (new, was_watched) =
            queued.unwrap_or_else(|| (Timeout::Own(Box::pin(sleep_until(deadline))), false));
        let new = timeout.insert(new);
        match was_watched {
            true => Poll::Pending,
            // If the runtime has shut down, the new watcher was dropped, and the timeout has fired.
            false => new.poll(context),
        }
    }

    /// Adds a timeout to the queue of a runtime. Returns it, and whether the queue was watched already.
    /// Returns `None` if the timeout needs a timer of its own.
    fn enqueue(
        &self,
        runtime: &Handle,
        deadline: Instant,
        waker: &Waker,
    ) -> Option<(Timeout, bool)> {
        let queue = self.queue(runtime.id());
        let mut state = queue.state();
        let last = state.last_deadline().unwrap_or(deadline);
        if last.saturating_duration_since(deadline) > RESOLUTION || state.entries.len() >= MAX_QUEUE
        {
            return None;
        }
        let number = state.removed + state.entries.len();
        let entry = (deadline.max(last), Some(waker.clone()));
        state.entries.push_back(entry);
        let was_watched = mem::replace(&mut state.is_watched, true);
        drop(state);
        if !was_watched {
            // A runtime that is shutting down drops the future at once.
            runtime.spawn(Watcher::new(queue.clone()).run());
        }
        Some((Timeout::Queued { queue, number }, was_watched))
    }

    fn queue(&self, runtime: Id) -> Arc<Queue> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = queues.iter().find(|queue| queue.runtime == runtime);
        known.cloned().unwrap_or_else(|| {
            // Removes the queues of runtimes that have shut down.
            queues.retain(|queue| queue.state().is_watched);
            let new = Arc::new(Queue::new(runtime));
            queues.push(new.clone());
            new
        })
    }
}

impl Queue {
    fn new(runtime: Id) -> Self {
        Self {
            runtime,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the earliest deadline that the watcher can serve. It sleeps until `watcher_wakes_at` even if
    /// all timeouts were dropped.
    fn last_deadline(&self) -> Option<Instant> {
        let last = self.entries.back().map(|(deadline, _)| *deadline);
        last.or(self.watcher_wakes_at)
    }

    fn waker(&mut self, number: usize) -> Option<&mut Option<Waker>> {
        let index = number.checked_sub(self.removed)?;
        self.entries.get_mut(index).map(|(_, waker)| waker)
    }

    /// Removes entries from the front: those whose timeout was dropped or, if `now` is given, whose
    /// deadline has passed. Returns the tasks to wake.
    fn remove_front(&mut self, now: Option<Instant>) -> Vec<Waker> {
        let mut expired = Vec::new();
        while let Some((deadline, waker)) = self.entries.front_mut() {
            if waker.is_some() && now.is_none_or(|now| now < *deadline) {
                break;
            }
            expired.extend(waker.take());
            self.entries.pop_front();
            self.removed += 1;
        }
        expired
    }
}

impl Timeout {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Own(sleep) => sleep.as_mut().poll(context),
            Self::Queued { queue, number } => {
                let mut state = queue.state();
                match state.waker(*number) {
                    Some(Some(waker)) if waker.will_wake(context.waker()) => Poll::Pending,
                    Some(Some(waker)) => {
                        let old = mem::replace(waker, context.waker().clone());
                        // Dropping a waker runs code of the caller's runtime: not under the lock.
                        drop(state);
                        drop(old);
                        Poll::Pending
                    }
                    _ => Poll::Ready(()),
                }
            }
        }
    }
}

impl Drop for Timeout {
    fn drop(&mut self) {
        if let Self::Queued { queue, number } = self {
            let mut state = queue.state();
            let waker = state.waker(*number).and_then(Option::take);
            state.remove_front(None);
            drop(state);
            drop(waker);
        }
    }
}

/// The task that wakes the tasks of expired timeouts. It ends when the queue is empty.
struct Watcher {
    queue: Arc<Queue>,
    has_ended: bool,
}

impl Watcher {
    fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            has_ended: false,
        }
    }

    async fn run(mut self) {
        while let Some(deadline) = self.next_deadline() {
            sleep_until(deadline).await;
            let expired = self.queue.state().remove_front(Some(Instant::now()));
            expired.into_iter().for_each(Waker::wake);
        }
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let mut state = self.queue.state();
        let next = state.entries.front().map(|(deadline, _)| *deadline);
        state.is_watched = next.is_some();
        state.watcher_wakes_at = next;
        self.has_ended = next.is_none();
        next
    }
}

/// If the runtime shuts down, fires every timeout, since another runtime may poll the futures. The next
/// timeout starts another watcher.
impl Drop for Watcher {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut state = self.queue.state();
        (state.is_watched, state.watcher_wakes_at) = (false, None);
        state.removed += state.entries.len();
        let entries = mem::take(&mut state.entries);
        drop(state);
        let wakers = entries.into_iter().filter_map(|(_, waker)| waker);
        wakers.for_each(Waker::wake);
    }
}

#[cfg(all(test, not(tollgate_loom)))]
mod tests {
    use std::future::pending;

    use futures_util::task::noop_waker;
    use tokio::runtime::Builder;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timeout_after_a_dropped_longer_one_fires_in_time() {
        let timeouts = Timeouts::default();
        // The watcher starts to sleep before this timeout is dropped.
        let long = timeouts.timeout_at(Instant::now() + Duration::from_secs(60), pending::<()>());
        let dropped = timeout(Duration::from_millis(5), long).await;
        assert!(dropped.is_err());

        let start = Instant::now();
        let deadline = start + Duration::from_millis(10);
        timeouts.timeout_at(deadline, pending::<()>()).await;
        assert!(start.elapsed() <= Duration::from_millis(12));
    }

    #[test]
    fn timeout_fires_if_its_runtime_shuts_down() {
        let timeouts = Timeouts::default();
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let deadline = Instant::now() + Duration::from_secs(3_600);
        let mut result = pin!(timeouts.timeout_at(deadline, pending::<()>()));
        runtime.block_on(async {
            assert!(result.as_mut().poll(&mut context).is_pending());
            yield_now().await;
        });
        assert!(result.as_mut().poll(&mut context).is_pending());
        drop(runtime);
        assert!(result.as_mut().poll(&mut context).is_ready());
    }
}
