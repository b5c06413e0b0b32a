//! Processes share the slots of a concurrency limit, also while some of them are killed.

// Processes are killed with SIGKILL.
#![cfg(unix)]

#[path = "support/redis/mod.rs"]
mod servers;
#[path = "support/user.rs"]
mod support;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::process::{self, Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use servers::{Server, Wait};
use tokio::time::{sleep, timeout};
use tollgate::{Check, Identity, Limiter, Limits, Quota, RedisStore};

use support::{LONG_DEADLINE, closed_limiter};

const TEST: &str = "killed_processes_free_their_slots";

/// The environment variable that makes [`TEST`] run the clients of one process. Its value is the URL of
/// the server.
const SERVER_OF_CLIENTS: &str = "TOLLGATE_TEST_SERVER_OF_CLIENTS";

const PROCESSES: usize = 3;
const CLIENTS_PER_PROCESS: u64 = 12;
const KILLS: usize = 4;

const SLOTS: usize = 5;
/// A slot lapses after one to two times this without renewal.
const TTL: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits::from(Quota::concurrent(SLOTS as u32).reserve_for(TTL))
}

fn limiter(url: &str) -> Limiter {
    closed_limiter(&RedisStore::new(url).unwrap(), LONG_DEADLINE)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_free_their_slots() {
    if let Ok(url) = env::var(SERVER_OF_CLIENTS) {
        return run_clients(&url).await;
    }
    let server = Server::start().await;
    let (reader, mut writer) = io::pipe().unwrap();
    let log = Log::read(reader);
    let start = |writer: &PipeWriter| Process::start(&server.url(), writer);
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start(&writer)).collect();
    log.wait_until_all_slots_are_used().await;
    for kill in 0..KILLS {
        sleep(Duration::from_millis(100 + 150 * kill as u64)).await;
        let process = &mut processes[kill % PROCESSES];
        process.kill();
        writeln!(writer, "killed {}", process.0.id()).unwrap();
        *process = start(&writer);
        log.wait_until_all_slots_are_used().await;
    }

    drop(processes);
    let (limiter, limits, alice) = (limiter(&server.url()), limits(), Identity::user("alice"));
    let check = Check::new(&alice, &limits);
    let wait = Wait::until("no slot is taken");
    while limiter.peek(&check).await.remaining() < SLOTS as u32 {
        wait.sleep().await;
    }
    assert_eq!(server.keys_without_ttl().await, [""; 0]);

    drop(writer);
    let Log { reports, reader } = log;
    reader.join().unwrap();
    assert_eq!(reports.lock().unwrap().fault, None);
}

/// Takes slots and releases them, until the test closes the pipe or is killed.
async fn run_clients(url: &str) {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    let limiter = limiter(url);
    join_all(
        (0..CLIENTS_PER_PROCESS).map(|client| tokio::spawn(use_slots(limiter.clone(), client))),
    )
    .await;
}

async fn use_slots(limiter: Limiter, client: u64) {
    let (limits, alice) = (limits(), Identity::user("alice"));
    let check = Check::new(&alice, &limits);
    let name = format!("{} {client}", process::id());
    for turn in 0.. {
        let random = (client * 104_729 + turn * 7_919) % 1_000;
        let asked_at = now();
        let acquired = limiter.acquire(&check);
        if random.is_multiple_of(8) {
            // Most of these futures are dropped before the answer.
            drop(timeout(Duration::from_millis(1), acquired).await);
            continue;
        }
        let Ok(permit) = acquired.await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        report(&format!("taken {name} {asked_at} {}\n", now()));
        // A permit that is held for longer than its slot lasts is renewed.
        let milliseconds = if random % 20 == 1 { 1_500 } else { random / 10 };
        sleep(Duration::from_millis(milliseconds)).await;
        report(&format!("released {name}\n"));
        drop(permit);
    }
}

/// Returns the time in microseconds.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_micros() as u64
}

/// Writes a line to the pipe that all processes share. A short write to a pipe is atomic, so the lines of
/// all processes are in the order of the writes.
fn report(line: &str) {
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A process of clients. Dropping it kills the process.
struct Process(Child);

impl Process {
    fn start(url: &str, log: &PipeWriter) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(SERVER_OF_CLIENTS, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .spawn();
        Self(child.unwrap())
    }

    /// Kills the process with SIGKILL, and waits until it has ended.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The reports of the processes, and the thread that reads them until no process is left.
struct Log {
    reports: Arc<Mutex<Reports>>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Reports {
    /// The clients that hold a slot, as `process client`, and when the slot may lapse.
    holders: BTreeMap<String, u64>,
    /// The latest time of a report.
    now: u64,
    /// The largest number of holders since the last kill.
    most_holders: usize,
    /// More holders than slots, or a line that is not a report, such as the message of a panic.
    fault: Option<String>,
}

impl Log {
    fn read(pipe: PipeReader) -> Self {
        let reports: Arc<Mutex<Reports>> = Arc::default();
        let recorded = reports.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                recorded.lock().unwrap().record(&line.unwrap());
            }
        });
        Self { reports, reader }
    }

    /// Waits until all slots were taken at once since the last kill.
    async fn wait_until_all_slots_are_used(&self) {
        let wait = Wait::until("all slots are used");
        let most_holders = || self.reports.lock().unwrap().most_holders;
        while most_holders() < SLOTS {
            assert_eq!(self.fault(), None);
            wait.sleep().await;
        }
    }

    fn fault(&self) -> Option<String> {
        self.reports.lock().unwrap().fault.clone()
    }
}

impl Reports {
    fn record(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["taken", process, client, asked_at, taken_at] => {
                let [asked_at, taken_at] = [asked_at, taken_at].map(|at| at.parse().unwrap());
                self.now = self.now.max(taken_at);
                let lapses_at: u64 = asked_at + TTL.as_micros() as u64;
                self.holders
                    .insert(format!("{process} {client}"), lapses_at);
                // A busy machine may renew a slot too late. So a slot counts only until it may lapse
                // without renewal.
                self.holders.retain(|_, lapses_at| *lapses_at > self.now);
                self.most_holders = self.most_holders.max(self.holders.len());
                if self.holders.len() > SLOTS {
                    let fault = || format!("{SLOTS} slots are held by {:?}", self.holders);
                    self.fault.get_or_insert_with(fault);
                }
            }
            ["released", process, client] => {
                self.holders.remove(&format!("{process} {client}"));
            }
            ["killed", process] => {
                let process = format!("{process} ");
                self.holders
                    .retain(|holder, _| !holder.starts_with(&process));
                self.most_holders = 0;
            }
            _ => drop(self.fault.get_or_insert_with(|| line.to_owned())),
        }
    }
}
