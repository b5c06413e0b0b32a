//! Lets requests go when they are due.
//!
//! By a thread of its own: Tokio's timer is right to a millisecond, which is as long as an answer
//! takes, and would be measured with it.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::plan::Amount;
use super::schedule::Schedule;

/// One permit for each request that is due, none of which is given back. After the last there are as
/// many as there are `waiters`, so that each of them learns that there is no more. Close it to end
/// early.
pub(super) fn start(
    schedule: Arc<Schedule>,
    began: Instant,
    waiters: usize,
) -> io::Result<Arc<Semaphore>> {
    let permits = Arc::new(Semaphore::new(0));
    let given = Arc::clone(&permits);
    thread::Builder::new()
        .name("pace".to_owned())
        .spawn(move || give(&schedule, began, &given, waiters))?;
    Ok(permits)
}

fn give(schedule: &Schedule, began: Instant, permits: &Semaphore, waiters: usize) {
    let mut given = 0;
    while !permits.is_closed() {
        if matches!(schedule.amount(), Amount::Requests(total) if given >= total) {
            permits.add_permits(waiters);
            return;
        }
        let Some(due) = schedule.due_by(began.elapsed()) else {
            return;
        };
        permits.add_permits(usize::try_from(due - given).unwrap_or(usize::MAX));
        given = due;
        if let Some(next) = schedule.due(given) {
            thread::sleep(next.saturating_sub(began.elapsed()));
        }
    }
}
