//! Redis Sentinel: whoever is the primary is asked of the sentinels, for each new connection, and
//! again while one is in use: a primary that was replaced goes on as if it were one, until the
//! sentinels tell it, and what it counts is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, Pipeline, Value};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::connection::{Connection, connect};
use super::refusal::{broken, unavailable};
use super::script::Script;
use super::server::moved;
use crate::store::{StoreError, StoreErrorKind};

/// How long a sentinel may take, before another one is asked.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often the sentinels are asked whether another server has the primary's place.
const WATCHED: Duration = Duration::from_secs(1);

/// The place of the server that a connection is to.
pub(super) struct Place {
    address: ConnectionAddr,
    /// When a sentinel was last asked.
    asked_at: Mutex<Instant>,
    lost: Arc<AtomicBool>,
}

impl Place {
    /// Whether a sentinel has said that another server is the primary.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

pub(super) struct Sentinel {
    sentinels: Vec<ConnectionInfo>,
    /// The name that the sentinels know the primary by.
    service: String,
    /// How to connect to the primary, but for its address.
    primary: ConnectionInfo,
    /// Which one to ask next: the one that was right the last time.
    next: AtomicUsize,
}

impl Sentinel {
    pub(super) fn new(
        sentinels: Vec<ConnectionInfo>,
        service: String,
        primary: ConnectionInfo,
    ) -> Self {
        Self {
            sentinels,
            service,
            primary,
            next: AtomicUsize::new(0),
        }
    }

    /// Connects to the primary that a sentinel names, if it says that it is one.
    pub(super) async fn open(&self, script: &Script) -> Result<Connection, StoreError> {
        let mut failure = unavailable("there is no sentinel");
        for _ in &self.sentinels {
            // Whoever gives up on this one begins with the next.
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let sentinel = &self.sentinels[index % self.sentinels.len()];
            match self.open_as_told_by(sentinel, script).await {
                Ok(connection) => {
                    self.next.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                // What one that answered had to say is worth more than that another did not.
                Err(error) if failure.kind() != StoreErrorKind::Rejected => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn open_as_told_by(
        &self,
        sentinel: &ConnectionInfo,
        script: &Script,
    ) -> Result<Connection, StoreError> {
        let info = self.ask(sentinel).await?;
        let place = Place {
            address: info.addr().clone(),
            asked_at: Mutex::new(Instant::now()),
            lost: Arc::default(),
        };
        let mut connection = Connection::open(info, script).await?;
        connection.place = Some(place);
        let mut role = Pipeline::with_capacity(1);
        role.cmd("ROLE");
        let replies = connection.send(&role).await;
        let replies = replies.map_err(|error| broken(&error))?;
        match replies.first() {
            Some(Value::Array(parts))
                if parts.first() == Some(&Value::BulkString("master".into())) =>
            {
                Ok(connection)
            }
            _ => {
                let error = "the primary that a sentinel named says that it is none";
                Err(StoreError::new(StoreErrorKind::Rejected, error))
            }
        }
    }

    /// Has a sentinel asked, unless that was done a moment ago, whether the server that is
    /// connected to still has its place.
    pub(super) fn watch(self: &Arc<Self>, connection: &Connection, runtime: &Handle) {
        let Some(place) = &connection.place else {
            return;
        };
        {
            let asked_at = place.asked_at.lock();
            let mut asked_at = asked_at.unwrap_or_else(PoisonError::into_inner);
            if asked_at.elapsed() < WATCHED {
                return;
            }
            *asked_at = Instant::now();
        }
        let (sentinel, address, lost) = (self.clone(), place.address.clone(), place.lost.clone());
        runtime.spawn(async move {
            for _ in &sentinel.sentinels {
                let next = sentinel.next.load(Ordering::Relaxed);
                let asked = &sentinel.sentinels[next % sentinel.sentinels.len()];
                if let Ok(primary) = sentinel.ask(asked).await {
                    lost.store(*primary.addr() != address, Ordering::Relaxed);
                    return;
                }
                sentinel.next.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Where a sentinel says that the primary is.
    async fn ask(&self, sentinel: &ConnectionInfo) -> Result<ConnectionInfo, StoreError> {
        let asking = async {
            let (mut connection, _) = connect(sentinel.clone()).await?;
            let mut command = Cmd::new();
            command
                .arg("SENTINEL")
                .arg("GET-MASTER-ADDR-BY-NAME")
                .arg(&self.service);
            command
                .query_async::<Option<(String, u16)>>(&mut connection)
                .await
        };
        let asked = timeout(PATIENCE, asking).await;
        let asked = asked.map_err(|_| unavailable("no sentinel answered in time"))?;
        match asked.map_err(|error| broken(&error))? {
            Some((host, port)) => Ok(moved(&self.primary, &host, port)),
            None => {
                let error = format!("the sentinels know no `{}`", self.service);
                Err(StoreError::new(StoreErrorKind::Rejected, error))
            }
        }
    }
}
