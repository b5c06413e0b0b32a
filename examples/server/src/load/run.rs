use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use super::client::Client;
use super::pace;
use super::plan::Plan;
use super::progress::Progress;
use super::report::Report;
use super::schedule::Schedule;
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
        Some(_) => Some(pace::start(
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
