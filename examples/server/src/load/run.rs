//! Sends the requests of a load.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::sleep;

use super::client::Client;
use super::plan::{Amount, Plan, Schedule, start_pacer};
use super::report::Report;
use super::tally::Tally;

/// The state that all workers share.
struct Shared {
    plan: Plan,
    clients: Vec<Client>,
    schedule: Arc<Schedule>,
    pacer: Option<Arc<Semaphore>>,
    began: Instant,
    /// The number of requests that workers have started.
    started: AtomicU64,
    /// The number of requests with a result.
    done: Arc<AtomicU64>,
}

/// Sends requests until the plan is done, or until `stop`. Requests without a response are then
/// given up.
pub(crate) async fn run(plan: Plan, stop: impl Future<Output = ()>) -> anyhow::Result<Report> {
    let token = plan.token.as_deref();
    let clients = plan.servers.iter();
    let clients = clients.map(|server| Client::new(server, token, plan.limit));
    let clients = clients.collect::<Result<_, _>>()?;
    let schedule = Arc::new(Schedule::new(plan.amount, plan.rate));
    let (began, done) = (Instant::now(), Arc::default());
    let progress = Progress::start(schedule.amount(), began, &done);
    let pacer = match plan.rate {
        Some(_) => Some(start_pacer(
            Arc::clone(&schedule),
            began,
            plan.in_flight as usize,
        )?),
        None => None,
    };
    let shared = Arc::new(Shared {
        plan,
        clients,
        schedule,
        pacer,
        began,
        started: AtomicU64::new(0),
        done,
    });

    let (stop_sender, stopped) = watch::channel(false);
    let mut workers: JoinSet<Tally> = (0..shared.plan.in_flight)
        .map(|_| Arc::clone(&shared).send_until_stopped(stopped.clone()))
        .collect();
    let mut tally = Tally::default();
    let stop = async {
        stop.await;
        stop_sender.send_replace(true);
        // The workers end by themselves, so this future stays pending.
        pending::<Infallible>().await
    };
    tokio::select! {
        joined = join_workers(&mut workers, &mut tally) => joined?,
        never = stop => match never {},
    }
    let took = began.elapsed();
    if let Some(pacer) = &shared.pacer {
        pacer.close();
    }
    drop(progress);
    Ok(Report::new(&shared.plan, &tally, took))
}

async fn join_workers(workers: &mut JoinSet<Tally>, sum: &mut Tally) -> Result<(), JoinError> {
    while let Some(tally) = workers.join_next().await {
        sum.add(tally?);
    }
    Ok(())
}

impl Shared {
    /// Sends requests one at a time.
    async fn send_until_stopped(self: Arc<Self>, mut stopped: watch::Receiver<bool>) -> Tally {
        let mut tally = Tally::default();
        tokio::select! {
            biased;
            () = self.send_all(&mut tally) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        tally
    }

    async fn send_all(&self, tally: &mut Tally) {
        loop {
            if let Some(pacer) = &self.pacer {
                match pacer.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return,
                }
            }
            // Taken after the permit: the number of permits is the number of requests that are due.
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            let now = self.began.elapsed();
            if !self.schedule.includes(number, now) {
                return;
            }
            // With a rate, latency counts from when the request was due. A request that is late
            // because the servers are slow has kept its caller waiting as well.
            let since = self.schedule.due_at(number).unwrap_or(now);
            let (server, key) = self.plan.request(number);
            tally.sent += 1;
            let result = self.clients[server].check(key, self.plan.timeout).await;
            let now = self.began.elapsed();
            match result {
                Ok(result) => tally.record_result(result, now.saturating_sub(since)),
                Err(failure) => {
                    let from = self.plan.servers[server].to_string();
                    tally.record_failure(failure, &from, now);
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A progress bar on standard error, if that is a terminal. It is removed when it is dropped.
struct Progress {
    bar: ProgressBar,
    task: Option<JoinHandle<()>>,
}

impl Progress {
    fn start(amount: Amount, began: Instant, done: &Arc<AtomicU64>) -> Self {
        let length = match amount {
            Amount::Requests(total) => total,
            Amount::For(time) => milliseconds(time),
        };
        let bar = ProgressBar::new(length);
        if bar.is_hidden() {
            return Self { bar, task: None };
        }
        let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}");
        bar.set_style(style.expect("a valid template"));
        let (bar_of_task, done) = (bar.clone(), Arc::clone(done));
        // Updated at intervals, since an update for each response would slow down the measurement.
        let task = tokio::spawn(async move {
            loop {
                let (done, passed) = (done.load(Ordering::Relaxed), began.elapsed());
                bar_of_task.set_position(match amount {
                    Amount::Requests(_) => done,
                    Amount::For(_) => milliseconds(passed),
                });
                let per_second = done as f64 / passed.as_secs_f64();
                bar_of_task.set_message(format!(
                    "{} requests, {} /s",
                    HumanCount(done),
                    HumanCount(per_second as u64)
                ));
                sleep(PROGRESS_INTERVAL).await;
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
