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
use super::plan::{Amount, Plan, Schedule, start_pace};
use super::report::Report;
use super::tally::Tally;

/// What all who ask have in common.
struct Load {
    plan: Plan,
    clients: Vec<Client>,
    schedule: Arc<Schedule>,
    pace: Option<Arc<Semaphore>>,
    began: Instant,
    /// How many requests were taken by somebody.
    taken: AtomicU64,
    /// How many of them are done.
    done: Arc<AtomicU64>,
}

/// Asks until everything was asked and answered, or until `stop`. What has no answer then is given
/// up.
pub(crate) async fn run(plan: Plan, stop: impl Future<Output = ()>) -> anyhow::Result<Report> {
    let token = plan.token.as_deref();
    let clients = plan.servers.iter();
    let clients = clients.map(|server| Client::new(server, token, plan.limit));
    let clients = clients.collect::<Result<_, _>>()?;
    let schedule = Arc::new(Schedule::new(plan.amount, plan.rate));
    let (began, done) = (Instant::now(), Arc::default());
    let progress = Progress::start(schedule.amount(), began, &done);
    let pace = match plan.rate {
        Some(_) => Some(start_pace(
            Arc::clone(&schedule),
            began,
            plan.in_flight as usize,
        )?),
        None => None,
    };
    let load = Arc::new(Load {
        plan,
        clients,
        schedule,
        pace,
        began,
        taken: AtomicU64::new(0),
        done,
    });

    let (tell, told) = watch::channel(false);
    let mut clients: JoinSet<Tally> = (0..load.plan.in_flight)
        .map(|_| Arc::clone(&load).ask(told.clone()))
        .collect();
    let mut tally = Tally::default();
    let stop = async {
        stop.await;
        tell.send_replace(true);
        // They are waited for all the same.
        pending::<Infallible>().await
    };
    tokio::select! {
        gathered = gather(&mut clients, &mut tally) => gathered?,
        never = stop => match never {},
    }
    let took = began.elapsed();
    if let Some(pace) = &load.pace {
        pace.close();
    }
    drop(progress);
    Ok(Report::new(&load.plan, &tally, took))
}

async fn gather(clients: &mut JoinSet<Tally>, sum: &mut Tally) -> Result<(), JoinError> {
    while let Some(tally) = clients.join_next().await {
        sum.add(tally?);
    }
    Ok(())
}

impl Load {
    /// One request after the other.
    async fn ask(self: Arc<Self>, mut told: watch::Receiver<bool>) -> Tally {
        let mut tally = Tally::default();
        tokio::select! {
            biased;
            () = self.ask_all(&mut tally) => {}
            _ = told.wait_for(|told| *told) => {}
        }
        tally
    }

    async fn ask_all(&self, tally: &mut Tally) {
        loop {
            if let Some(pace) = &self.pace {
                match pace.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return,
                }
            }
            // After the wait: of so many permits, so many requests are due.
            let number = self.taken.fetch_add(1, Ordering::Relaxed);
            let now = self.began.elapsed();
            if !self.schedule.includes(number, now) {
                return;
            }
            // From when it should have been sent: if the servers are slow, so that it is late, its
            // caller has waited too.
            let since = self.schedule.due(number).unwrap_or(now);
            let (server, key) = self.plan.request(number);
            tally.sent += 1;
            let answer = self.clients[server].check(key, self.plan.patience).await;
            let now = self.began.elapsed();
            match answer {
                Ok(answer) => tally.answered(answer, now.saturating_sub(since)),
                Err(failure) => {
                    let from = self.plan.servers[server].to_string();
                    tally.failed(failure, &from, now);
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

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
