use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::plan::Amount;

const STEP: Duration = Duration::from_millis(100);

/// A bar on stderr, if that is a terminal; gone when dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    task: Option<JoinHandle<()>>,
}

impl Progress {
    pub(super) fn start(amount: Amount, began: Instant, done: &Arc<AtomicU64>) -> Self {
        let length = match amount {
            Amount::Requests(total) => total,
            Amount::For(time) => milliseconds(time),
        };
        let bar = ProgressBar::new(length);
        if bar.is_hidden() {
            return Self { bar, task: None };
        }
        let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}");
        bar.set_style(style.expect("a template"));
        let (shown, done) = (bar.clone(), Arc::clone(done));
        // From time to time rather than at each answer, which would cost what is measured.
        let task = tokio::spawn(async move {
            loop {
                let (done, passed) = (done.load(Ordering::Relaxed), began.elapsed());
                shown.set_position(match amount {
                    Amount::Requests(_) => done,
                    Amount::For(_) => milliseconds(passed),
                });
                let a_second = done as f64 / passed.as_secs_f64();
                shown.set_message(format!(
                    "{} requests, {} /s",
                    HumanCount(done),
                    HumanCount(a_second as u64)
                ));
                sleep(STEP).await;
            }
        });
        let task = Some(task);
        Self { bar, task }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.bar.finish_and_clear();
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
