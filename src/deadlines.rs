//! The ends of waits, of which hardly any comes: nearly all are over before. So they share a timer,
//! which costs less than one for each.

use std::collections::VecDeque;
use std::future::Future;
#[cfg(feature = "redis")]
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
#[cfg(feature = "redis")]
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// Tokio's timers are as late as this.
const LATE: Duration = Duration::from_millis(1);

/// So many share a timer. One who waits for longer than those after it keeps all their places.
const MOST: usize = 65_536;

/// For each runtime those that wait in it, since no runtime waits for another.
#[derive(Default)]
pub(crate) struct Deadlines {
    /// Mostly there is no other.
    first: OnceLock<Arc<Line>>,
    others: Mutex<Vec<Arc<Line>>>,
}

/// Those that wait in one runtime, in the order in which their time is up.
pub(crate) struct Line {
    runtime: Id,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// How many have left at the front.
    left: usize,
    /// When the time of each is up, and whom to wake then: nobody if that is done.
    ends: VecDeque<(Instant, Option<Waker>)>,
    /// Whether the task runs that wakes them, and until when it sleeps.
    is_watched: bool,
    asleep_until: Option<Instant>,
}

/// The end of one wait.
pub(crate) enum Deadline {
    Shared { line: Arc<Line>, number: usize },
    Own(Pin<Box<Sleep>>),
}

impl Deadlines {
    /// Ready at that instant, at which whoever waits is woken.
    pub(crate) fn poll(
        &self,
        deadline: &mut Option<Deadline>,
        instant: Instant,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        if let Some(deadline) = deadline {
            return deadline.poll(context);
        }
        let shared = Handle::try_current()
            .ok()
            .and_then(|runtime| self.share(&runtime, instant, context.waker()));
        let (new, is_watched) =
            shared.unwrap_or_else(|| (Deadline::Own(Box::pin(sleep_until(instant))), false));
        let new = deadline.insert(new);
        match is_watched {
            true => Poll::Pending,
            // Its runtime may be ending.
            false => new.poll(context),
        }
    }

    /// What is done by that instant.
    #[cfg(feature = "redis")]
    pub(crate) async fn within<T>(&self, end: Instant, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut deadline) = (pin!(work), None::<Deadline>);
        let done = poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            self.poll(&mut deadline, end, context).map(|()| None)
        });
        done.await
    }

    /// A deadline that shares a timer, and whether a task already sees to it.
    fn share(&self, runtime: &Handle, instant: Instant, waker: &Waker) -> Option<(Deadline, bool)> {
        let line = self.line(runtime.id());
        let mut waiting = line.waiting();
        let last = waiting.last().unwrap_or(instant);
        if last.saturating_duration_since(instant) > LATE || waiting.ends.len() >= MOST {
            return None;
        }
        let number = waiting.left + waiting.ends.len();
        waiting
            .ends
            .push_back((instant.max(last), Some(waker.clone())));
        let is_watched = mem::replace(&mut waiting.is_watched, true);
        drop(waiting);
        if !is_watched {
            let (line, done) = (line.clone(), false);
            // A runtime that is ending drops it at once.
            runtime.spawn(Watch { line, done }.run());
        }
        Some((Deadline::Shared { line, number }, is_watched))
    }

    fn line(&self, runtime: Id) -> Arc<Line> {
        let first = self.first.get_or_init(|| Arc::new(Line::new(runtime)));
        if first.runtime == runtime {
            return first.clone();
        }
        let mut lines = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lines.iter().find(|line| line.runtime == runtime);
        known.cloned().unwrap_or_else(|| {
            // Those of runtimes that have ended are in nobody's use.
            lines.retain(|line| line.waiting().is_watched);
            let new = Arc::new(Line::new(runtime));
            lines.push(new.clone());
            new
        })
    }
}

impl Line {
    fn new(runtime: Id) -> Self {
        Self {
            runtime,
            waiting: Mutex::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Nobody is woken sooner: even if those that the task sleeps for have all left.
    fn last(&self) -> Option<Instant> {
        let last = self.ends.back().map(|(end, _)| *end);
        last.or(self.asleep_until)
    }

    fn waker(&mut self, number: usize) -> Option<&mut Option<Waker>> {
        let place = number.checked_sub(self.left)?;
        self.ends.get_mut(place).map(|(_, waker)| waker)
    }

    /// Lets go of those at the front who have left, or whose time is up at `now`: these are to be
    /// woken.
    fn pass(&mut self, now: Option<Instant>) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some((end, waker)) = self.ends.front_mut() {
            if waker.is_some() && now.is_none_or(|now| now < *end) {
                break;
            }
            woken.extend(waker.take());
            self.ends.pop_front();
            self.left += 1;
        }
        woken
    }
}

impl Deadline {
    /// Ready when the time is up.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Own(sleep) => sleep.as_mut().poll(context),
            Self::Shared { line, number } => {
                let mut waiting = line.waiting();
                match waiting.waker(*number) {
                    Some(Some(waker)) if waker.will_wake(context.waker()) => Poll::Pending,
                    Some(Some(waker)) => {
                        let old = mem::replace(waker, context.waker().clone());
                        drop(waiting);
                        drop(old);
                        Poll::Pending
                    }
                    _ => Poll::Ready(()),
                }
            }
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Self::Shared { line, number } = self {
            let mut waiting = line.waiting();
            let waker = waiting.waker(*number).and_then(Option::take);
            waiting.pass(None);
            drop(waiting);
            drop(waker);
        }
    }
}

/// The task that wakes those whose time is up, while there are any.
struct Watch {
    line: Arc<Line>,
    done: bool,
}

impl Watch {
    async fn run(mut self) {
        while let Some(end) = self.next() {
            sleep_until(end).await;
            let woken = self.line.waiting().pass(Some(Instant::now()));
            woken.into_iter().for_each(Waker::wake);
        }
    }

    fn next(&mut self) -> Option<Instant> {
        let mut waiting = self.line.waiting();
        let next = waiting.ends.front().map(|(end, _)| *end);
        waiting.is_watched = next.is_some();
        waiting.asleep_until = next;
        self.done = next.is_none();
        next
    }
}

/// However it ends, the next check starts another, and nobody is left to wait for ever: whose runtime
/// has ended may be waited for in another one.
impl Drop for Watch {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut waiting = self.line.waiting();
        (waiting.is_watched, waiting.asleep_until) = (false, None);
        waiting.left += waiting.ends.len();
        let abandoned = mem::take(&mut waiting.ends);
        drop(waiting);
        let wakers = abandoned.into_iter().filter_map(|(_, waker)| waker);
        wakers.for_each(Waker::wake);
    }
}

#[cfg(all(test, not(tollgate_loom)))]
mod tests {
    use std::future::poll_fn;
    use std::task::Wake;

    use tokio::runtime::Builder;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    async fn wait(deadlines: &Deadlines, time: Duration) {
        let (end, mut deadline) = (Instant::now() + time, None);
        poll_fn(|context| deadlines.poll(&mut deadline, end, context)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_over_in_time_after_a_longer_one_that_was_given_up() {
        let deadlines = Deadlines::default();
        // Its task begins to sleep, before nobody waits any more.
        let long = wait(&deadlines, Duration::from_secs(60));
        let given_up = timeout(Duration::from_millis(5), long).await;
        assert!(given_up.is_err());

        let began = Instant::now();
        wait(&deadlines, Duration::from_millis(10)).await;
        assert!(began.elapsed() <= Duration::from_millis(12));
    }

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_wait_does_not_outlive_the_runtime_that_would_end_it() {
        let deadlines = Deadlines::default();
        let waker = Waker::from(Arc::new(Nobody));
        let mut context = Context::from_waker(&waker);
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let mut deadline = None;
        let end = runtime.block_on(async {
            let end = Instant::now() + Duration::from_secs(3_600);
            assert!(
                deadlines
                    .poll(&mut deadline, end, &mut context)
                    .is_pending()
            );
            yield_now().await;
            end
        });
        assert!(
            deadlines
                .poll(&mut deadline, end, &mut context)
                .is_pending()
        );
        drop(runtime);
        assert!(deadlines.poll(&mut deadline, end, &mut context).is_ready());
    }
}
